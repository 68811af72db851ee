"""The journal that a driver leaves in the store for other processes: a log of every change of state.

`sweeps/NAME/events.jsonl` is the log, with one JSON object per line; `docs/cluster.md` describes the fields. Behind a URL nothing can be
appended, so each driver has its own logs `sweeps/NAME/events/DRIVER-NUMBER.jsonl`, and writes only the last of them anew.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import FAILED, RESULT, Store
from orchestrator.definition.graph import Graph, State
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.storage.retrying import StoreUnavailable

EVENTS = "events.jsonl"

_LARGEST_PART = 256 * 1024
"""Bytes of one part of the log behind a URL. A part is uploaded again with every few lines until it is full."""


class Journal:
    """One driver's record of a sweep, and its heartbeat while it runs the sweep. Use as a context manager."""

    def __init__(self, store: Store, sweep: str, graph: Graph, *, content: str = "", on_cancel: Callable[[], bool] | None = None) -> None:
        """Prepare. Entering the context begins to write.

        Args:
            store: Where to write.
            sweep: Name of the sweep.
            graph: Its jobs and their states.
            content: Digits that stand for all jobs of the sweep. The graph may hold only some of these jobs.
            on_cancel: Called when `scalearn cancel` asks this driver to stop, again and again until it returns true. None: do what a signal
                would do.
        """
        self._store, self._graph, self._sweep = store, graph, sweep
        self._on_cancel = on_cancel or _interrupt
        self.heartbeat = Heartbeat(store, sweep, content, running=self._running, on_cancel=self._cancel)
        # Without patience: a record must not make jobs wait, and what could not be written is written later.
        self._storage = store.storage.impatient
        self._blocked: set[str] = set()
        self._part, self._written, self._unwritten = 0, b"", b""
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="journal", daemon=True)

    def __enter__(self) -> "Journal":
        """Begin the record and the heartbeat.

        Raises:
            StoreUnavailable: The store does not take the first heartbeat.
        """
        self.note("begin", driver=self.heartbeat.name, host=socket.gethostname(), pid=os.getpid(), counts=self._graph.counts())
        self.heartbeat.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the record."""
        self._ending.set()
        self._thread.join()
        self.note("end", driver=self.heartbeat.name, counts=self._graph.counts())
        self._write()
        self.heartbeat.__exit__(*exception)

    def listen(self, node: str, state: State) -> None:
        """Record a change of state and its consequences. The searcher calls this as its listener."""
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
        """Write the new lines. If the store is full or away, they are written later. Callers that note an event meanwhile do not wait."""
        with self._writing, contextlib.suppress(OSError, StoreUnavailable):
            while new := self._unwritten:
                if self._store.is_local:
                    self._storage.exists(self._store.root)  # fails if the store was moved: it must not be made anew
                    done = _append(self._store.sidecar(self._sweep, EVENTS), new)
                else:
                    self._upload(new)
                    done = len(new)
                with self._adding:
                    self._unwritten = self._unwritten[done:]

    def _upload(self, new: bytes) -> None:
        part = self._written + new
        self._storage.write(self._store.sidecar(self._sweep, f"events/{self.heartbeat.name}-{self._part:04d}.jsonl"), part)
        self._part, self._written = (self._part, part) if len(part) < _LARGEST_PART else (self._part + 1, b"")

    def _details(self, node: str, state: State) -> dict[str, Any]:
        name, wanted = {"failed": (FAILED, ("error", "attempts")), "succeeded": (RESULT, ("timing", "pack_size"))}.get(state, ("", ()))
        record = {}
        with contextlib.suppress(OSError, StoreUnavailable):
            record = (self._storage.read_json(self._store.directory(node) / name) if name else None) or {}
        return {key: record.get(key) for key in wanted}

    def _keep_writing(self) -> None:
        while not self._ending.wait(self.heartbeat.every):
            self._write()

    def _running(self) -> list[str]:
        return [node for node, state in dict(self._graph.states).items() if state == "running"]

    def _cancel(self) -> bool:
        if passed_on := self._on_cancel():
            self.note("cancel", driver=self.heartbeat.name)
        return passed_on


def _interrupt() -> bool:
    """Do what SIGINT would do. Return whether the process has a handler for it yet."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
        return False  # a shell started it in the background, and no handler is set yet
    os.kill(os.getpid(), signal.SIGINT)
    return True


def _append(path: Path, lines: bytes) -> int:
    """Append lines to a log to which other drivers also write. Return how many bytes of whole lines were written.

    A disk that fills up may take half a line. The next line then begins on a line of its own, and readers skip the half line.

    Raises:
        OSError: Nothing was written.
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
