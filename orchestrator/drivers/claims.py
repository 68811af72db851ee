"""Which driver trains a job, where several run sweeps in one store at the same time: each job has one at a time.

A claim on a job is a file `.leases/NODE/NUMBER.json` that names a driver; the highest number counts. It is written only where there is
none, so of several drivers exactly one gets it. A driver vouches for all its claims at once by a sign of life, `.leases/drivers/NAME.json`,
whose count rises. Claims of a driver without one are void, and whoever wants such a job writes the next number.

No two clocks are compared: a driver is dead for a reader that has seen the same count for a lease's length of the reader's own time. A
process of the reader's own machine that has ended is dead at once; one that runs may be stopped, so silence decides there too.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from orchestrator.artifacts.store import Store
from orchestrator.storage.files import Storage, encode
from orchestrator.storage.retrying import Patience, StoreUnavailable, unavailable
from scalearn.errors import UserError

LEASES = ".leases"
LEASE_SECONDS = 60.0
"""Longer than network file systems show an old file for, and than a driver's longest pause."""

VARIABLE = "SCALEARN_LEASE_SECONDS"
"""Environment variable with other seconds, the same for all drivers of a store."""

_BEATS_PER_LEASE = 6


def usual_seconds() -> float:
    """Return how long a driver may be silent: what the environment says, or the default.

    Raises:
        UserError: The variable holds no number of seconds.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return LEASE_SECONDS
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise UserError(f"{VARIABLE} is {text!r}: give a number of seconds above 0, such as {LEASE_SECONDS:g}.")


class Leases:
    """The jobs that one driver has claimed. Use as a context manager; only the heartbeat runs in a thread of its own."""

    def __init__(
        self,
        store: Store,
        lease_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Name the driver; entering the context gives the first sign of life.

        Args:
            store: Where the jobs are.
            lease_seconds: How long a driver may be silent, the same for all drivers. None: a minute, or what the environment says.
            clock: Seconds.
            sleep: Passes the time while only time can tell whether a driver lives.

        Raises:
            UserError: The environment says something else than a number of seconds.
        """
        # Without patience: a claim that cannot be made now is made later, and meanwhile other jobs go on.
        self._storage = Storage(store.url, Patience(0.0))
        self._patient = store.storage
        self.lease_seconds = usual_seconds() if lease_seconds is None else lease_seconds
        self._clock, self._sleep = clock, sleep
        self.driver = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, tuple[object, float]] = {}
        """Other drivers to the count of their last sign, and since when it has been that."""
        self._moved: set[str] = set()
        """Drivers whose count was seen to rise."""
        self._beats = 0
        self._unanswered_since: float | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)

    def __enter__(self) -> "Leases":
        """Begin to give signs of life."""
        self._sign(self._patient)  # without it, claims are void
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up all claims."""
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # others then wait until the sign is old
            self._storage.remove(self._sign_of(self.driver))

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
            if holder is not None and not self.is_dead(holder):
                return False
            if not self._storage.create(self._folder(node) / f"{number + 1}.json", encode({"driver": self.driver})):
                return False
        except OSError as error:
            self._wait_for_the_store(error)
            return False
        self._unanswered_since = None
        self._numbers[node] = number + 1
        return True

    def is_free(self, node: str) -> bool:
        """Tell whether a claim on a job may succeed: no other driver that lives has one. False also where the store does not answer."""
        try:
            _, holder = self._latest(node)
            return holder is None or (holder == self.driver and node not in self._numbers) or self.is_dead(holder)
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
        claimed = {name.rpartition("/")[0] for name in self._patient.listing(self._storage.root / LEASES / "nodes")}
        left, found, told = [node for node in nodes if node in claimed], dict[str, str](), False
        while left:
            silent: dict[str, str] = {}
            try:
                for node in left:
                    _, holder = self._latest(node)
                    if holder is not None and holder != self.driver and not self.is_dead(holder):
                        (found if holder in self._moved else silent)[node] = holder
                left = list(silent)
            except OSError as error:
                self._wait_for_the_store(error)
            if silent and not told:
                node, holder = next(iter(silent.items()))
                tell(f"{node} is claimed by {holder}: waiting up to {self.lease_seconds:g} seconds for a sign of life from there.")
                told = True
            if left:
                self._sleep(min(1.0, self.lease_seconds / _BEATS_PER_LEASE))
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
        now, since = self._clock(), self._unanswered_since  # which the heartbeat may forget at any moment
        if since is None:
            self._unanswered_since = now
        elif now - since > self._patient.patience.seconds:
            raise StoreUnavailable(unavailable(self._storage.url, error, now - since)) from error

    def _latest(self, node: str) -> tuple[int, str | None]:
        """Return the number and the driver of the claim that counts; 0 where there is none."""
        folder = self._folder(node)
        numbers = [int(stem) for name in self._storage.names(folder) if (stem := name.removesuffix(".json")).isdecimal()]
        if not numbers:
            return 0, None
        record = self._storage.read_json(folder / f"{max(numbers)}.json") or {}
        holder = record.get("driver")
        return max(numbers), holder if isinstance(holder, str) else None

    def is_dead(self, driver: str) -> bool:
        """Tell whether a driver has ended, or has given no sign of life for as long as a lease lasts."""
        if driver == self.driver:
            return False
        sign = self._storage.read_json(self._sign_of(driver))
        if sign is None:
            return True
        if sign.get("machine") != machine() or runs(sign.get("pid"), sign.get("started")):
            count, since = self._seen.get(driver, (None, 0.0))
            if count is None or count != sign.get("count"):
                if count is not None:
                    self._moved.add(driver)
                self._seen[driver] = (sign.get("count"), self._clock())
                return False
            if self._clock() - since <= self.lease_seconds:
                return False
        self._storage.remove(self._sign_of(driver))  # nobody else need wait; a driver that lives after all writes it again
        return True

    def _sign(self, storage: Storage) -> None:
        self._beats += 1
        pid = os.getpid()
        sign = {"count": self._beats, "host": socket.gethostname(), "machine": machine(), "pid": pid, "started": started(pid)}
        storage.write_json(self._sign_of(self.driver), sign)

    def _beat(self) -> None:
        while not self._ending.wait(self.lease_seconds / _BEATS_PER_LEASE):
            with contextlib.suppress(OSError):  # the next one may arrive
                self._sign(self._storage)
                self._unanswered_since = None  # a store that takes this takes claims

    def _folder(self, node: str) -> Path:
        return self._storage.root / LEASES / "nodes" / node

    def _sign_of(self, driver: str) -> Path:
        return self._storage.root / LEASES / "drivers" / f"{driver}.json"


@cache
def machine() -> str:
    """Return what processes that can see one another have in common: host names repeat among containers."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def started(pid: int) -> str | None:
    """Return when a process of this machine started, in ticks since boot: its number alone may be another's by now. None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def runs(pid: object, began: object) -> bool:
    """Tell whether a process of this machine that had started at a moment still runs."""
    return isinstance(pid, int) and began is not None and started(pid) == began
