"""A driver's sign of life, and how others tell from it whether the driver lives.

`.leases/drivers/NAME.json` says which process runs which sweep, with which jobs, and holds a count that rises every few seconds. It also
vouches for all claims of the driver. `NAME.cancel` beside it asks the driver to stop.

No two clocks are compared. Who sees the count rise knows that the driver lives; who sees the same count for a lease's length of their own
time takes it for dead. Of a process of the reader's own machine the system knows more: one that has ended is dead at once.
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
"""Where in a store the signs lie."""

LEASE_SECONDS = 60.0
"""How long a driver may be silent: longer than network file systems show an old file for, and than a driver's longest pause."""

VARIABLE = "SCALEARN_LEASE_SECONDS"
"""Environment variable with other seconds, the same for all drivers of a store."""

_BEATS_PER_LEASE = 12
_LONGEST_BEAT = 5.0
_LOOK_SECONDS = 1.0
"""How often a driver looks whether it is asked to stop."""
_LOOKS = 10
"""How often to look at a sign that does not change, two beats long in all: one beat may come late."""
_SAME_START = 2.0
"""Seconds by which two looks at the start of one process may differ: the system tells its own start in whole seconds."""


def lease_seconds() -> float:
    """Return how long a driver may be silent: what the environment says, or the default.

    Raises:
        UserError: The variable holds no number of seconds.
    """
    return stated_seconds(VARIABLE, LEASE_SECONDS, zero=False)


def _beat_seconds(lease: float) -> float:
    return min(_LONGEST_BEAT, lease / _BEATS_PER_LEASE)


@dataclass(frozen=True)
class Driver:
    """A driver, as its last sign of life has it. What a sign does not say, or not in the form that we write, is empty."""

    name: str
    host: str
    pid: int
    sweep: str
    """Name of the sweep that it runs. Empty: none, or it is of a version that gave other signs."""
    content: str
    """Stands for all jobs of its sweep."""
    running: tuple[str, ...]
    """Nodes that it had handed out."""
    at_work: bool | None
    """Whether its process runs, as far as the reader's system knows. None: it is elsewhere, or stopped; only its count can tell."""

    @property
    def process(self) -> str:
        """How sentences call it."""
        return f"the driver on {self.host}, process {self.pid}"


class Heartbeat:
    """The signs of life of this driver, given by a thread that waits for nothing else. Use as a context manager.

    At its end the driver's claims are void.
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
        """Name the driver; entering the context gives the first sign.

        Args:
            store: Where.
            sweep: Name of the sweep that it runs.
            content: Stands for all jobs of that sweep.
            lease: Seconds for which a driver may be silent, the same for all drivers. None: a minute, or what the environment says.
            running: Returns the nodes that are handed out.
            on_cancel: Called when `scalearn cancel` asks this driver to stop, until it returns that it has passed that on.

        Raises:
            UserError: The environment says something else than a number of seconds.
        """
        self.store = store
        self.lease = lease_seconds() if lease is None else lease
        self.every = _beat_seconds(self.lease)
        """Seconds from one sign to the next."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.beats = 0
        """How many signs the store has taken."""
        pid = os.getpid()
        self._facts: dict[str, object] = {"host": socket.gethostname(), "machine": machine(), "pid": pid, "started": _look_up(pid)[1]}
        self._facts |= {"sweep": sweep, "content": content}
        self._running, self._on_cancel = running, on_cancel
        # Without patience: the next sign may arrive.
        self._storage = store.storage.impatient
        self._sign = store.root / DRIVERS / f"{self.name}.json"
        self._request = self._sign.with_suffix(".cancel")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        """Give the first sign, and begin to give more.

        Raises:
            StoreUnavailable: The store does not take it: without one, claims are void.
        """
        self._beat(self.store.storage)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End."""
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # others then wait until the sign is old
            self._storage.remove(self._request)
            self._storage.remove(self._sign)

    def _beat(self, storage: Storage) -> None:
        storage.write_json(self._sign, {"count": self.beats + 1, **self._facts, "running": list(self._running())})
        self.beats += 1

    def _live(self) -> None:
        beaten, cancelled = time.monotonic(), False
        while not self._ending.wait(min(_LOOK_SECONDS, self.every)):
            with contextlib.suppress(OSError):  # the store is away; this thread must live to see it again
                if time.monotonic() - beaten >= self.every:
                    beaten = time.monotonic()
                    self._beat(self._storage)
                if not cancelled and self._storage.read_json(self._request) is not None:
                    cancelled = self._on_cancel()


class Signs:
    """What one reader sees of drivers' signs of life, and remembers from look to look."""

    def __init__(self, storage: Storage, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no memory.

        Args:
            storage: Where.
            lease: Seconds after which a silent driver is dead.
            clock: Seconds, of the reader alone.
        """
        self._storage, self._lease, self._clock = storage, lease, clock
        self._seen: dict[str, tuple[object, float]] = {}
        """Drivers to the count of their last sign, and since when it has been that."""
        self._risen: set[str] = set()

    def read(self, names: Iterable[str]) -> dict[str, Driver]:
        """Return those of some drivers that have a sign, by name."""
        found = {name: self._storage.read_json(self._path(name), SMALL) for name in names}
        records = {name: record for name, record in found.items() if record is not None}
        for name, record in records.items():
            count, _ = self._seen.setdefault(name, (record.get("count"), self._clock()))
            if count != record.get("count"):
                self._seen[name] = record.get("count"), self._clock()
                self._risen.add(name)
        return {name: _driver(name, record) for name, record in records.items()}

    def has_risen(self, name: str) -> bool:
        """Tell whether a driver's count was seen to rise: it lives for certain."""
        return name in self._risen

    def is_dead(self, name: str) -> bool:
        """Look at a driver, and tell whether it has ended, or has given no sign for as long as a lease lasts.

        A process of this machine that runs may be stopped: there, too, silence decides.
        """
        driver = self.read([name]).get(name)
        if driver is None:
            return True
        if driver.at_work is not False and self._clock() - self._seen[name][1] <= self._lease:
            return False
        self._storage.remove(self._path(name))  # nobody else need wait; a driver that lives after all writes it again
        return True

    def _path(self, name: str) -> Path:
        return self._storage.root / DRIVERS / f"{name}.json"


def living(store: Store, wanted: Callable[[Driver], object], sleep: Callable[[float], None] = time.sleep) -> list[Driver]:
    """Return those drivers that live, for a reader that must decide at once.

    A process of this machine that runs is taken at its word. Of another machine's, and of one that is stopped, the count must be seen to
    rise: that takes up to a beat (5 seconds) where the driver lives, and two where it does not.

    Args:
        store: Where.
        wanted: Tells which drivers matter: nobody waits for the others.
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
    """Ask a driver on any host to stop as a signal would: it looks for this request every second."""
    store.write_json(store.root / DRIVERS / f"{driver.name}.cancel", {"host": socket.gethostname()})


def _driver(name: str, record: dict[str, Any]) -> Driver:
    host, sweep, content = (value if isinstance(value := record.get(key), str) else "" for key in ("host", "sweep", "content"))
    if sweep.startswith(".") or set(sweep) & set("/\\\0"):
        sweep = ""  # it would lead out of the store
    running, pid = record.get("running"), record.get("pid")
    nodes = tuple(node for node in running if isinstance(node, str)) if isinstance(running, list) else ()
    number = pid if isinstance(pid, int) and pid > 0 else 0
    at_work = _at_work(number, record.get("started")) if record.get("machine") == machine() else None
    return Driver(name, host, number, sweep, content, nodes, at_work)


@cache
def machine() -> str:
    """Return what processes that can see one another have in common: host names repeat among containers.

    Earlier versions, which told a process's start in other units, wrote a space in place of the colon. To each other they are on different
    machines, so that neither takes the other's processes for ended.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _at_work(pid: int, started: object) -> bool | None:
    """Tell whether a process of this machine that started at a moment runs; its number alone may be another's by now."""
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
    """Return a process's status, and its start in seconds since the system's, which no jump of a clock changes."""
    boot = psutil.boot_time()
    process = psutil.Process(pid)
    return process.status(), process.create_time() - boot
