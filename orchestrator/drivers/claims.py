"""Which driver trains a job, where several run sweeps in one store at the same time: each job has one at a time.

A claim on a job is a file `.leases/nodes/NODE/NUMBER.json` that names a driver; the highest number counts. It is written only where there
is none, so of several drivers exactly one gets it. Claims of a driver that gives no sign of life (`orchestrator.drivers.heartbeat`) are
void, and whoever wants such a job writes the next number.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.drivers.heartbeat import Heartbeat, Signs
from orchestrator.storage.retrying import StoreUnavailable, unavailable
from scalearn.files.json_files import encode

CLAIMS = ".leases/nodes"
"""Where in a store the claims lie."""

_LOOK_SECONDS = 1.0


class Claims:
    """The jobs that one driver has claimed. They end with its heartbeat."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without any.

        Args:
            heartbeat: The driver's: what its claims are worth.
            clock: Seconds.
            sleep: Passes the time while only time can tell whether a driver lives.
        """
        self.driver, self._heartbeat = heartbeat.name, heartbeat
        # Without patience: a claim that cannot be made now is made later, and meanwhile other jobs go on.
        self._storage, self._patient = heartbeat.store.storage.impatient, heartbeat.store.storage
        self.signs = Signs(self._storage, heartbeat.lease, clock)
        self._clock, self._sleep = clock, sleep
        self._numbers: dict[str, int] = {}
        self._unanswered: tuple[float, int] | None = None
        """Since when the store has taken no claim, and how many signs of life it had taken by then."""

    def claim(self, node: str) -> bool:
        """Try to get a job for this driver; it stays its own until it is released.

        Returns:
            Whether it is. False: another driver has it, or the store does not answer.

        Raises:
            StoreUnavailable: The store has taken no claim for as long as one waits for stores.
        """
        try:
            number, holder = self._latest(node)
            if holder == self.driver:
                # Also where nobody told so: the answer to a claim that the store had taken may have been lost.
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
        """Tell whether a claim on a job may succeed: no other driver that lives has one. False also where the store does not answer."""
        try:
            _, holder = self._latest(node)
            return node not in self._numbers if holder == self.driver else holder is None or self.signs.is_dead(holder)
        except OSError:
            return False

    def living(self, nodes: Iterable[str], tell: Callable[[str], object] = lambda line: None) -> dict[str, str]:
        """Find the jobs that are claimed by another driver that shows signs of life; waits for those that have not shown one yet.

        Args:
            nodes: The jobs to look at.
            tell: Called with one sentence if there is something to wait for.

        Returns:
            Jobs to the driver that has them. It takes as long as a lease where a driver is silent.

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
        """Give up a job that has ended.

        Args:
            node: The job.
            done: Whether its artifact is complete: nobody who claims it then trains it, so all traces of claims may go.
        """
        number = self._numbers.pop(node, None)
        if number is None:
            return
        with contextlib.suppress(OSError):  # the claim then ends with this driver
            if done:
                self._storage.remove_tree(self._folder(node))
            else:
                self._storage.write_json(self._folder(node) / f"{number}.json", {"driver": None})

    def _wait_for_the_store(self, error: OSError) -> None:
        now, beats = self._clock(), self._heartbeat.beats
        if self._unanswered is None or self._unanswered[1] != beats:  # a store that takes signs of life takes claims
            self._unanswered = now, beats
        elif now - self._unanswered[0] > self._patient.patience.seconds:
            raise StoreUnavailable(unavailable(self._storage.url, error, now - self._unanswered[0])) from error

    def _latest(self, node: str) -> tuple[int, str | None]:
        """Return the number and the driver of the claim that counts; 0 where there is none."""
        folder = self._folder(node)
        numbers = [int(stem) for name in self._storage.names(folder) if (stem := name.removesuffix(".json")).isdecimal()]
        if not numbers:
            return 0, None
        record = self._storage.read_json(folder / f"{max(numbers)}.json") or {}
        holder = record.get("driver")
        return max(numbers), holder if isinstance(holder, str) else None

    def _folder(self, node: str) -> Path:
        return self._storage.root / CLAIMS / node
