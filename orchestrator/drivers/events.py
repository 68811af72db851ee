"""What a driver leaves in the store for other processes: a log of every change of state, and a sign of life that can be answered.

`sweeps/NAME/events.jsonl` is the log, one JSON object per line: `docs/cluster.md` describes the fields. Where the store is no directory,
nothing can be appended to, and each driver has logs of its own, `sweeps/NAME/events/DRIVER-NUMBER.jsonl`: only the last is written anew.
`sweeps/NAME/drivers/ID.json` is the sign of life, and `ID.cancel` beside it asks that driver to stop.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import FAILED, RESULT, Store
from orchestrator.definition.graph import Graph, State
from orchestrator.drivers.claims import machine, runs, started
from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import Patience, StoreUnavailable

EVENTS, DRIVERS = "events.jsonl", "drivers"

_BEAT_SECONDS = 5.0
_LOOK_SECONDS = 1.0
"""How often a driver looks whether it is asked to stop."""
_STALE_SECONDS = 30.0
_LARGEST_SKEW = 3600.0
"""Seconds by which the clocks of two machines may differ."""
_LARGEST_PART = 256 * 1024
"""Bytes of a part of the log behind a URL, which is uploaded again with every few lines until it is full."""
_LOOKS = 7
"""How often to look at a silent driver's sign: longer than from one beat to the next."""
_FORGOTTEN_SECONDS = 86400.0


@dataclass(frozen=True)
class Driver:
    """A process that was running a sweep at its last sign of life, not long ago."""

    name: str
    host: str
    pid: int
    running: tuple[str, ...]
    """Nodes that it had handed out."""
    content: str = ""
    """Stands for all jobs of its sweep. Empty: it does not say."""

    @property
    def process(self) -> str:
        """How sentences call it."""
        return f"the driver on {self.host}, process {self.pid}"


class Journal:
    """The driver's own record of one sweep, beside the manifest. Use as a context manager."""

    def __init__(self, store: Store, sweep: str, graph: Graph, *, content: str = "", on_cancel: Callable[[], bool] | None = None) -> None:
        """Prepare; entering the context writes.

        Args:
            store: Where.
            sweep: Name of the sweep.
            graph: Its jobs and their states.
            content: Stands for all jobs of the sweep, of which the graph may hold some.
            on_cancel: Called when `scalearn cancel` asks this driver to stop, until it returns that it has passed that on. None: does
                as a signal would.
        """
        self._store, self._graph, self._content = store, graph, content
        self._host = socket.gethostname()
        self.name = f"{self._host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._sweep = sweep
        # Without patience: a record must not keep jobs waiting, and what could not be written is written later.
        self._storage = Storage(store.url, Patience(0.0))
        self._sign = store.sidecar(sweep, f"{DRIVERS}/{self.name}.json")
        self._request = store.sidecar(sweep, f"{DRIVERS}/{self.name}.cancel")
        self._on_cancel = on_cancel or _interrupt
        self._blocked: set[str] = set()
        self._part, self._written, self._unwritten = 0, b"", b""
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Journal":
        """Begin to give signs of life."""
        self.note("begin", driver=self.name, host=self._host, pid=os.getpid(), counts=self._graph.counts())
        with contextlib.suppress(OSError, StoreUnavailable):
            self._give_sign()
            self._forget_the_dead()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the record."""
        self._ending.set()
        self._thread.join()
        self.note("end", driver=self.name, counts=self._graph.counts())
        self._write()
        with contextlib.suppress(OSError, StoreUnavailable):
            for path in (self._request, self._sign):
                self._storage.remove(path)

    def listen(self, node: str, state: State) -> None:
        """Record a change of state and what follows from it: the searcher's listener."""
        self.note("state", node=node, state=state, **self._details(node, state))
        if state == "failed":
            for below in self._graph.below(node):
                if self._graph.states[below] == "blocked" and below not in self._blocked:
                    self._blocked.add(below)
                    self.note("state", node=below, state="blocked", by=self._graph.blocked_by(below))

    def note(self, event: str, **fields: Any) -> None:
        """Write one line."""
        line = json.dumps({"time": time.time(), "event": event, **fields}) + "\n"
        with self._adding:
            self._unwritten += line.encode()
        if self._store.is_local:
            self._write()

    def _write(self) -> None:
        """Write what is new; a store that is full or away gets it later. Who notes something meanwhile does not wait."""
        with self._writing, contextlib.suppress(OSError, StoreUnavailable):
            while new := self._unwritten:
                if self._store.is_local:
                    self._storage.exists(self._sign)  # fails where the store was moved: it must not be made anew
                    done = _append(self._store.sidecar(self._sweep, EVENTS), new)
                else:
                    self._upload(new)
                    done = len(new)
                with self._adding:
                    self._unwritten = self._unwritten[done:]

    def _upload(self, new: bytes) -> None:
        part = self._written + new
        self._storage.write(self._store.sidecar(self._sweep, f"events/{self.name}-{self._part:04d}.jsonl"), part)
        self._part, self._written = (self._part, part) if len(part) < _LARGEST_PART else (self._part + 1, b"")

    def _details(self, node: str, state: State) -> dict[str, Any]:
        name, wanted = {"failed": (FAILED, ("error", "attempts")), "succeeded": (RESULT, ("timing", "pack_size"))}.get(state, ("", ()))
        record = {}
        with contextlib.suppress(OSError, StoreUnavailable):
            record = (self._storage.read_json(self._store.directory(node) / name) if name else None) or {}
        return {key: record.get(key) for key in wanted}

    def _give_sign(self) -> None:
        running = [node for node, state in dict(self._graph.states).items() if state == "running"]
        pid = os.getpid()
        process = {"pid": pid, "host": self._host, "machine": machine(), "started": started(pid)}
        sign = {"time": time.time(), **process, "running": running, "content": self._content}
        self._storage.write_json(self._sign, sign)

    def _forget_the_dead(self) -> None:
        """Remove the signs of drivers that were killed long ago."""
        folder = self._sign.parent
        for name in self._storage.names(folder):
            sign = self._storage.read_json(folder / name) or {}
            written = sign.get("time")
            if isinstance(written, int | float) and time.time() - written > _FORGOTTEN_SECONDS:
                self._storage.remove(folder / name)

    def _beat(self) -> None:
        beaten = time.monotonic()
        while not self._ending.wait(_LOOK_SECONDS):
            try:
                if time.monotonic() - beaten >= _BEAT_SECONDS:
                    self._give_sign()
                    self._write()
                    beaten = time.monotonic()
                asked = self._storage.read_json(self._request) is not None
            except (OSError, StoreUnavailable):
                continue  # the store is away; this thread must live to see it again
            if asked and self._on_cancel():
                self.note("cancel", driver=self.name)
                return


def _interrupt() -> bool:
    """Do as SIGINT would; returns whether the process has a handler for it by now."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
        return False  # started in the background of a shell, and not yet ready for signals
    os.kill(os.getpid(), signal.SIGINT)
    return True


def _append(path: Path, lines: bytes) -> int:
    """Append lines to a log, which other drivers also write to; returns how many bytes of whole lines have arrived.

    A disk that fills up takes half a line. What follows goes on a line of its own, and who reads the log passes over the half.

    Raises:
        OSError: None has arrived.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        torn = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        start = b"\n" if torn else b""
        written = (file.write(start + lines) or 0) - len(start)
    whole = lines.rfind(b"\n", 0, max(0, written)) + 1
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return whole


def drivers(store: Store, sweep: str, now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep) -> list[Driver]:
    """Return the drivers that gave a sign of life not long ago.

    A sign that is old by this machine's clock may be a living driver's whose clock is slow: it is looked at again for as long as a driver
    may take to give the next.
    """
    folder = store.sidecar(sweep, DRIVERS)

    def read(names: Iterable[str]) -> dict[str, tuple[float, Driver]]:
        found = {name: _sign(name, store.load_json(folder / name)) for name in names if name.endswith(".json")}
        return {name: sign for name, sign in found.items() if sign is not None}

    signs = read(store.storage.names(folder))
    # From the future, a sign says that a clock was put back, and nothing about the driver.
    living = {name for name, (written, _) in signs.items() if abs(now() - written) <= _STALE_SECONDS}
    silent = {name for name in signs.keys() - living if _may_live(*signs[name], now())}
    for _ in range(_LOOKS):
        if silent:
            sleep(_LOOK_SECONDS)
            again = read(silent)
            beating = {name for name, (written, _) in again.items() if written != signs[name][0]}
            signs |= again
            living |= beating
            silent = again.keys() - beating
    return [signs[name][1] for name in sorted(living)]


def _sign(name: str, record: dict[str, Any] | None) -> tuple[float, Driver] | None:
    """Return when a sign of life was given, by the clock there, and by whom. None: it is none, or its process here has ended."""
    match record:
        case {"time": int() | float() as written, "pid": int() as pid, "host": str() as host, "running": list() as running, **more}:
            nodes = tuple(node for node in running if isinstance(node, str))
            content = more.get("content")
            if more.get("machine") == machine() and not runs(pid, more.get("started")):
                return None
            return written, Driver(name.removesuffix(".json"), host, pid, nodes, content if isinstance(content, str) else "")
    return None


def _may_live(written: float, driver: Driver, now: float) -> bool:
    """Tell whether a driver whose sign is old, or from the future, is worth waiting for its next one."""
    if driver.host == socket.gethostname():
        return Path(f"/proc/{driver.pid}").exists()
    return now - written <= _LARGEST_SKEW


def ask_to_stop(store: Store, sweep: str, driver: Driver) -> None:
    """Ask a driver on any host to stop as a signal would: it looks for this request every second."""
    store.write_json(store.sidecar(sweep, f"{DRIVERS}/{driver.name}.cancel"), {"time": time.time(), "host": socket.gethostname()})


def running_nodes(store: Store, sweep: str, now: Callable[[], float] = time.time) -> list[str]:
    """Return the jobs that live drivers are running; none when the last signs of life are old."""
    return [node for driver in drivers(store, sweep, now) for node in driver.running]


def all_events(store: Store, sweep: str) -> list[dict[str, Any]]:
    """Return the events of all drivers of a sweep, in the order of their time."""
    folder = store.sidecar(sweep, "events")
    found = [event for name in store.storage.names(folder) for event in events(folder / name)]
    return sorted([*events(store.sidecar(sweep, EVENTS)), *found], key=lambda event: event["time"])


def events(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log of events."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("time"), int | float):
            found.append(event)
    return found
