"""Which driver trains a job, where several drivers run sweeps in one store at the same time: each job has one driver at a time.

A claim on a job is a file `.leases/nodes/NODE/NUMBER.json` that names a driver. The claim with the highest number counts. A claim is
written only where its file does not exist, so of several drivers exactly one gets it. If a driver shows no sign of life
(`orchestrator.drivers.heartbeat`), its claims are void, and a driver that wants such a job writes the next number.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.drivers.heartbeat import Heartbeat, Signs
from orchestrator.storage.retrying import StoreUnavailable, unavailable
from scalearn.files.json_files import encode

CLAIMS = ".leases/nodes"
"""Folder of a store in which the claims lie."""

_LOOK_SECONDS = 1.0


class Claims:
    """The jobs that one driver has claimed. The claims end with the driver's heartbeat."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without any claim.

        Args:
            heartbeat: The driver's heartbeat, without which its claims are void.
            clock: Returns seconds.
            sleep: Passes the time while this waits to see whether a driver lives.
        """
        self.driver, self._heartbeat = heartbeat.name, heartbeat
        # Without patience: a claim that cannot be made now is made later, and other jobs go on in the meantime.
        self._storage, self._patient = heartbeat.store.storage.impatient, heartbeat.store.storage
        self.signs = Signs(self._storage, heartbeat.lease, clock)
        self._clock, self._sleep = clock, sleep
        self._numbers: dict[str, int] = {}
        self._unanswered: tuple[float, int] | None = None
        """Since when the store has taken no claim, and how many heartbeats it had taken by then."""

    def claim(self, node: str) -> bool:
        """Try to claim a job for this driver. The claim stays until it is released.

        Returns:
            Whether this driver has the job. False: another driver has it, or the store does not answer.

        Raises:
            StoreUnavailable: The store has taken no claim for the whole time that a driver waits for a store.
        """
        try:
            number, holder = self._latest(node)
            if holder == self.driver:
                # Our own claim, from a call that failed: the store may take a claim and its answer be lost.
                self._numbers[node] = number
                return True
            if holder is not None and not self.signs.is_dead(holder):
                return False
            if not self._storage.create(self._folder(node) / f"{number + 1}.json", encode({"driver": self.driver})):
                return False
        except OSError as error:
            self._wait_for_the_store(error)
            return False
        self._unanswered = None
        self._numbers[node] = number + 1
        return True

    def is_free(self, node: str) -> bool:
        """Tell whether a claim on a job may succeed: no other living driver has one. False also if the store does not answer."""
        try:
            _, holder = self._latest(node)
            return node not in self._numbers if holder == self.driver else holder is None or self.signs.is_dead(holder)
        except OSError:
            return False

    def living(self, nodes: Iterable[str], tell: Callable[[str], object] = lambda line: None) -> dict[str, str]:
        """Find the jobs that another living driver has claimed. Wait for drivers that have not shown yet whether they live.

        Args:
            nodes: The jobs to look at.
            tell: Called with one sentence before the wait, if there is one.

        Returns:
            The driver of each such job. If a driver is silent, this takes as long as a lease.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        claimed = {name.rpartition("/")[0] for name in self._patient.listing(self._storage.root / CLAIMS)}
        left, found, told = [node for node in nodes if node in claimed], dict[str, str](), False
        while left:
            silent: dict[str, str] = {}
            try:
                for node in left:
                    _, holder = self._latest(node)
                    if holder is not None and holder != self.driver and not self.signs.is_dead(holder):
                        (found if self.signs.has_risen(holder) else silent)[node] = holder
                left = list(silent)
            except OSError as error:
                self._wait_for_the_store(error)
            if silent and not told:
                node, holder = next(iter(silent.items()))
                tell(f"{node} is claimed by {holder}: waiting up to {self._heartbeat.lease:g} seconds for a sign of life from there.")
                told = True
            if left:
                self._sleep(min(_LOOK_SECONDS, self._heartbeat.every))
        return found

    def release(self, node: str, *, done: bool) -> None:
        """Release the claim on a job that has ended.

        Args:
            node: The job.
            done: Whether the job's artifact is complete. Then no driver will train the job, so all its claims may be removed.
        """
        number = self._numbers.pop(node, None)
        if number is None:
            return
        with contextlib.suppress(OSError):  # then the claim ends with this driver
            if done:
                self._storage.remove_tree(self._folder(node))
            else:
                self._storage.write_json(self._folder(node) / f"{number}.json", {"driver": None})

    def _wait_for_the_store(self, error: OSError) -> None:
        now, beats = self._clock(), self._heartbeat.beats
        if self._unanswered is None or self._unanswered[1] != beats:  # a store that takes heartbeats takes claims
            self._unanswered = now, beats
        elif now - self._unanswered[0] > self._patient.patience.seconds:
            raise StoreUnavailable(unavailable(self._storage.url, error, now - self._unanswered[0])) from error

    def _latest(self, node: str) -> tuple[int, str | None]:
        """Return the number and the driver of the claim that counts, or 0 and None if there is none."""
        folder = self._folder(node)
        numbers = [int(stem) for name in self._storage.names(folder) if (stem := name.removesuffix(".json")).isdecimal()]
        if not numbers:
            return 0, None
        record = self._storage.read_json(folder / f"{max(numbers)}.json") or {}
        holder = record.get("driver")
        return max(numbers), holder if isinstance(holder, str) else None

    def _folder(self, node: str) -> Path:
        return self._storage.root / CLAIMS / node
