"""What a driver leaves for other processes to read: a log of every change of state, and a sign of life."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.graph import Graph, State
from orchestrator.store import Store

EVENTS, DRIVER = "events.jsonl", "driver.json"

_BEAT_SECONDS = 5.0
_STALE_SECONDS = 30.0


class Journal:
    """The driver's own record of one sweep, beside the manifest. Use as a context manager."""

    def __init__(self, store: Store, sweep: str, graph: Graph) -> None:
        """Prepare; entering the context writes.

        Args:
            store: Where.
            sweep: Name of the sweep.
            graph: Its jobs and their states.
        """
        self._store, self._graph = store, graph
        self._events = store.sidecar(sweep, EVENTS)
        self._driver = store.sidecar(sweep, DRIVER)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Journal":
        """Begin to give signs of life."""
        self._events.parent.mkdir(parents=True, exist_ok=True)
        self._write({"event": "begin", "pid": os.getpid(), "host": socket.gethostname()})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the record."""
        self._ending.set()
        self._thread.join()
        self._driver.unlink(missing_ok=True)
        self._write({"event": "end", "counts": self._graph.counts()})

    def listen(self, node: str, state: State) -> None:
        """Record a change of state: the searcher's listener."""
        self._write({"event": "state", "node": node, "state": state})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps({"time": time.time(), **event}) + "\n"
        with self._events.open("a", encoding="utf-8") as file:
            file.write(line)

    def _beat(self) -> None:
        while True:
            running = [node for node, state in dict(self._graph.states).items() if state == "running"]
            sign = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "running": running}
            self._store.write_json(self._driver, sign)
            if self._ending.wait(_BEAT_SECONDS):
                return


def running_nodes(store: Store, sweep: str, now: Callable[[], float] = time.time) -> list[str]:
    """Return the jobs that a live driver is running; none when the last sign of life is old."""
    sign = store.load_json(store.sidecar(sweep, DRIVER)) or {}
    written, running = sign.get("time"), sign.get("running")
    if not isinstance(written, int | float) or not isinstance(running, list) or now() - written > _STALE_SECONDS:
        return []
    return [node for node in running if isinstance(node, str)]


def events(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log of events."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
