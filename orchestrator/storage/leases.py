"""Which driver trains a job, where several run sweeps in one store at the same time: each job has one at a time.

A claim on a job is a file `.leases/NODE/NUMBER.json` that names a driver; the highest number counts. It is written only where there is
none, so of several drivers exactly one gets it. A driver vouches for all its claims at once by a sign of life, `.leases/drivers/NAME.json`,
whose count rises. Claims of a driver without one are void, and whoever wants such a job writes the next number.

No two clocks are compared: a driver is dead for a reader that has seen the same count for `LEASE_SECONDS` of the reader's own time. A
process of the reader's own machine that has ended is dead at once.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from orchestrator.storage.files import Storage, encode
from orchestrator.storage.patience import Patience, StoreUnavailable, unavailable
from orchestrator.storage.store import Store

LEASES = ".leases"
LEASE_SECONDS = 60.0
"""Longer than network file systems show an old file for, and than a driver's longest pause."""

_BEATS_PER_LEASE = 6


class Leases:
    """The jobs that one driver has claimed. Use as a context manager; only the heartbeat runs in a thread of its own."""

    def __init__(self, store: Store, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the driver; entering the context gives the first sign of life.

        Args:
            store: Where the jobs are.
            lease_seconds: How long a driver may be silent. The same for all drivers.
            clock: Seconds.
        """
        # Without patience: a claim that cannot be made now is made later, and meanwhile other jobs go on.
        self._storage = Storage(store.url, Patience(0.0))
        self._patient = store.storage
        self._lease_seconds, self._clock = lease_seconds, clock
        self.driver = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, tuple[object, float]] = {}
        """Other drivers to the count of their last sign, and since when it has been that."""
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
            if number > 0 and self._numbers.get(node) == number:
                return True
            if holder is not None and not self._is_dead(holder):
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
        """Tell whether no living driver has claimed a job. False also where the store does not answer."""
        try:
            _, holder = self._latest(node)
            return holder is None or self._is_dead(holder)
        except OSError:
            return False

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
        now = self._clock()
        if self._unanswered_since is None:
            self._unanswered_since = now
        elif now - self._unanswered_since > self._patient.patience.seconds:
            raise StoreUnavailable(unavailable(self._storage.url, error, now - self._unanswered_since)) from error

    def _latest(self, node: str) -> tuple[int, str | None]:
        """Return the number and the driver of the claim that counts; 0 where there is none."""
        folder = self._folder(node)
        numbers = [int(stem) for name in self._storage.names(folder) if (stem := name.removesuffix(".json")).isdecimal()]
        if not numbers:
            return 0, None
        record = self._storage.read_json(folder / f"{max(numbers)}.json") or {}
        holder = record.get("driver")
        return max(numbers), holder if isinstance(holder, str) else None

    def _is_dead(self, driver: str) -> bool:
        if driver == self.driver:
            return False
        sign = self._storage.read_json(self._sign_of(driver))
        if sign is None:
            return True
        if sign.get("machine") != _machine() or _runs(sign.get("pid"), sign.get("started")):
            count, since = self._seen.get(driver, (None, 0.0))
            if count is None or count != sign.get("count"):
                self._seen[driver] = (sign.get("count"), self._clock())
                return False
            if self._clock() - since <= self._lease_seconds:
                return False
        self._storage.remove(self._sign_of(driver))  # nobody else need wait; a driver that lives after all writes it again
        return True

    def _sign(self, storage: Storage) -> None:
        self._beats += 1
        pid = os.getpid()
        sign = {"count": self._beats, "host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _started(pid)}
        storage.write_json(self._sign_of(self.driver), sign)

    def _beat(self) -> None:
        while not self._ending.wait(self._lease_seconds / _BEATS_PER_LEASE):
            with contextlib.suppress(OSError):  # the next one may arrive
                self._sign(self._storage)

    def _folder(self, node: str) -> Path:
        return self._storage.root / LEASES / "nodes" / node

    def _sign_of(self, driver: str) -> Path:
        return self._storage.root / LEASES / "drivers" / f"{driver}.json"


@cache
def _machine() -> str:
    """Return what processes that can see one another have in common: host names repeat among containers."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _started(pid: int) -> str | None:
    """Return when a process of this machine started, in ticks since boot: its number alone may be another's by now. None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _runs(pid: object, started: object) -> bool:
    return isinstance(pid, int) and started is not None and _started(pid) == started
