"""A driver's heartbeat, and how other processes tell from it whether the driver lives.

`.leases/drivers/NAME.json` says which process runs which sweep, and with which jobs. It holds a count that rises every few seconds. The
driver's claims are valid as long as its count rises. The file `NAME.cancel` beside it asks the driver to stop.

No two clocks are compared. A reader that sees the count rise knows that the driver lives. A reader that sees the same count for the length
of a lease on its own clock takes the driver for dead. On its own machine a reader also asks the system: a process that has ended is dead.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from orchestrator.artifacts.store import Store
from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import stated_seconds
from scalearn.files.json_files import SMALL

DRIVERS = ".leases/drivers"
"""Folder of a store in which the heartbeats lie."""

LEASE_SECONDS = 60.0
"""Seconds for which a driver may be silent. Network file systems show an old file for less, and a driver's longest pause is shorter."""

VARIABLE = "SCALEARN_LEASE_SECONDS"
"""Environment variable with another number of seconds, which must be the same for all drivers of a store."""

_BEATS_PER_LEASE = 12
_LONGEST_BEAT = 5.0
_LOOK_SECONDS = 1.0
"""Seconds between two looks whether this driver is asked to stop."""
_LOOKS = 10
"""How often to look at a count that does not change. In all this takes two beats, since one beat may come late."""
_SAME_START = 2.0
"""Seconds by which two readings of a process's start may differ, since the system tells its own start in whole seconds."""


def lease_seconds() -> float:
    """Return for how many seconds a driver may be silent: the environment variable, or the default.

    Raises:
        UserError: The variable does not hold a number of seconds.
    """
    return stated_seconds(VARIABLE, LEASE_SECONDS, zero=False)


def _beat_seconds(lease: float) -> float:
    return min(_LONGEST_BEAT, lease / _BEATS_PER_LEASE)


@dataclass(frozen=True)
class Driver:
    """A driver, as its last heartbeat describes it. A field that the file lacks, or holds in another form than ours, is empty."""

    name: str
    host: str
    pid: int
    sweep: str
    """Name of the sweep that it runs. Empty: it runs none, or its version wrote other files."""
    content: str
    """Digits that stand for all jobs of its sweep."""
    running: tuple[str, ...]
    """Nodes that it had handed out."""
    at_work: bool | None
    """Whether its process runs, by the reader's system. None: it is on another machine, or stopped, so that only its count can tell."""

    @property
    def process(self) -> str:
        """What sentences call its process."""
        return f"the driver on {self.host}, process {self.pid}"


class Heartbeat:
    """This driver's heartbeat, written by a thread that does nothing else. Use as a context manager.

    When it ends, the driver's claims are void.
    """

    def __init__(
        self,
        store: Store,
        sweep: str = "",
        content: str = "",
        *,
        lease: float | None = None,
        running: Callable[[], Iterable[str]] = tuple,
        on_cancel: Callable[[], bool] = lambda: True,
    ) -> None:
        """Name the driver. Entering the context writes the first beat.

        Args:
            store: Where to write.
            sweep: Name of the sweep that it runs.
            content: Digits that stand for all jobs of that sweep.
            lease: Seconds for which a driver may be silent, the same for all drivers. None: the environment's number, or else a minute.
            running: Returns the nodes that are handed out.
            on_cancel: Called when `scalearn cancel` asks this driver to stop, again and again until it returns true.

        Raises:
            UserError: The environment variable does not hold a number of seconds.
        """
        self.store = store
        self.lease = lease_seconds() if lease is None else lease
        self.every = _beat_seconds(self.lease)
        """Seconds from one beat to the next."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.beats = 0
        """How many beats the store has taken."""
        pid = os.getpid()
        self._facts: dict[str, object] = {"host": socket.gethostname(), "machine": machine(), "pid": pid, "started": _look_up(pid)[1]}
        self._facts |= {"sweep": sweep, "content": content}
        self._running, self._on_cancel = running, on_cancel
        # Without patience: if one beat is lost, the next may arrive.
        self._storage = store.storage.impatient
        self._sign = store.root / DRIVERS / f"{self.name}.json"
        self._request = self._sign.with_suffix(".cancel")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        """Write the first beat, and start the thread that writes more.

        Raises:
            StoreUnavailable: The store does not take the first beat, and claims without a heartbeat are void.
        """
        self._beat(self.store.storage)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the thread and remove the heartbeat."""
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # then others wait until the heartbeat is old
            self._storage.remove(self._request)
            self._storage.remove(self._sign)

    def _beat(self, storage: Storage) -> None:
        storage.write_json(self._sign, {"count": self.beats + 1, **self._facts, "running": list(self._running())})
        self.beats += 1

    def _live(self) -> None:
        beaten, cancelled = time.monotonic(), False
        while not self._ending.wait(min(_LOOK_SECONDS, self.every)):
            with contextlib.suppress(OSError):  # the store is away; this thread must go on until it is back
                if time.monotonic() - beaten >= self.every:
                    beaten = time.monotonic()
                    self._beat(self._storage)
                if not cancelled and self._storage.read_json(self._request) is not None:
                    cancelled = self._on_cancel()


class Signs:
    """What one reader has seen of drivers' heartbeats, remembered from look to look."""

    def __init__(self, storage: Storage, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing seen.

        Args:
            storage: Where the heartbeats lie.
            lease: Seconds after which a silent driver is dead.
            clock: Returns seconds; used by this reader alone.
        """
        self._storage, self._lease, self._clock = storage, lease, clock
        self._seen: dict[str, tuple[object, float]] = {}
        """For each driver, its last count, and since when the count has been the same."""
        self._risen: set[str] = set()

    def read(self, names: Iterable[str]) -> dict[str, Driver]:
        """Return those of some drivers that have a heartbeat, by name."""
        found = {name: self._storage.read_json(self._path(name), SMALL) for name in names}
        records = {name: record for name, record in found.items() if record is not None}
        for name, record in records.items():
            count, _ = self._seen.setdefault(name, (record.get("count"), self._clock()))
            if count != record.get("count"):
                self._seen[name] = record.get("count"), self._clock()
                self._risen.add(name)
        return {name: _driver(name, record) for name, record in records.items()}

    def has_risen(self, name: str) -> bool:
        """Tell whether this reader saw a driver's count rise, so that the driver lives for certain."""
        return name in self._risen

    def is_dead(self, name: str) -> bool:
        """Look at a driver, and tell whether it has ended, or has been silent for the length of a lease.

        A process of this machine may exist but be stopped, so silence decides about it as well.
        """
        driver = self.read([name]).get(name)
        if driver is None:
            return True
        if driver.at_work is not False and self._clock() - self._seen[name][1] <= self._lease:
            return False
        self._storage.remove(self._path(name))  # so that nobody else waits; a driver that does live writes it again
        return True

    def _path(self, name: str) -> Path:
        return self._storage.root / DRIVERS / f"{name}.json"


def living(store: Store, wanted: Callable[[Driver], object], sleep: Callable[[float], None] = time.sleep) -> list[Driver]:
    """Return the living drivers among those that matter, for a reader that must decide at once.

    A running process of this machine counts as alive. For a process of another machine, or one that is stopped, this waits to see the count
    rise. That takes up to one beat (5 seconds) if the driver lives, and two beats if it does not.

    Args:
        store: Where the heartbeats lie.
        wanted: Tells whether a driver matters. The others are not waited for.
        sleep: Passes the time between two looks.
    """
    lease = lease_seconds()
    signs = Signs(store.storage, lease)
    names = [name.removesuffix(".json") for name in store.storage.names(store.root / DRIVERS) if name.endswith(".json")]
    silent = {name: driver for name, driver in signs.read(names).items() if driver.at_work is not False and wanted(driver)}
    found: dict[str, Driver] = {}
    for look in range(_LOOKS + 1):
        if look and silent:
            sleep(2 * _beat_seconds(lease) / _LOOKS)
            silent = signs.read(silent)
        found |= {name: driver for name, driver in silent.items() if driver.at_work or signs.has_risen(name)}
        silent = {name: driver for name, driver in silent.items() if name not in found}
    return [found[name] for name in sorted(found)]


def drivers(store: Store, sweep: str) -> list[Driver]:
    """Return the drivers that run a sweep."""
    return living(store, lambda driver: driver.sweep == sweep)


def ask_to_stop(store: Store, driver: Driver) -> None:
    """Ask a driver on any host to stop as a signal would. The driver looks for this request every second."""
    store.write_json(store.root / DRIVERS / f"{driver.name}.cancel", {"host": socket.gethostname()})


def _driver(name: str, record: dict[str, Any]) -> Driver:
    host, sweep, content = (value if isinstance(value := record.get(key), str) else "" for key in ("host", "sweep", "content"))
    if sweep.startswith(".") or set(sweep) & set("/\\\0"):
        sweep = ""  # such a name would lead out of the store
    running, pid = record.get("running"), record.get("pid")
    nodes = tuple(node for node in running if isinstance(node, str)) if isinstance(running, list) else ()
    number = pid if isinstance(pid, int) and pid > 0 else 0
    at_work = _at_work(number, record.get("started")) if record.get("machine") == machine() else None
    return Driver(name, host, number, sweep, content, nodes, at_work)


@cache
def machine() -> str:
    """Return what processes that can see each other have in common. A host name is not enough, since containers may share one.

    Earlier versions told a process's start in other units, and wrote a space in place of the colon. So the two versions take each other for
    different machines, and neither believes that the other's processes have ended.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _at_work(pid: int, started: object) -> bool | None:
    """Tell whether a process of this machine runs and started at the given moment. The number alone may belong to a newer process."""
    try:
        status, began = _look_up(pid)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None
    same = isinstance(started, int | float) and abs(began - started) < _SAME_START
    if not same or status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return False
    return None if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP) else True


def _look_up(pid: int) -> tuple[str, float]:
    """Return a process's status, and its start in seconds since the system's start, which a changed clock does not affect."""
    boot = psutil.boot_time()
    process = psutil.Process(pid)
    return process.status(), process.create_time() - boot
