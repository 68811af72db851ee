"""One writer beside the driver that ships what jobs left in the store to MLflow. Training never waits for it.

Whatever could not be shipped, because the server was away or the driver died, is shipped from the store by a later run.
"""

import os
import queue
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.graph import Graph, State
from orchestrator.run_facts import history_points, parameters, result_points, tags
from orchestrator.store import FAILED, HISTORY, JOB, RESULT, SUCCESS, Store

if TYPE_CHECKING:
    from orchestrator.mlflow_runs import JobRun, SweepRuns

_INTERVAL = 2.0
_LONGEST_PAUSE = 60.0
_LEDGER = "tracked.json"
_MLFLOW_SETTINGS = {
    # MLflow's own patience is minutes per call; ours is to try again later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Target:
    """Where a sweep is logged."""

    uri: str
    experiment: str
    sweep: str
    note: str

    @classmethod
    def of(cls, uri: str | None, experiment: str | None, sweep: str, note: str, store: Store) -> "Target":
        """Fill in the defaults: `MLFLOW_TRACKING_URI`, else an SQLite file in the store; the sweep's name as experiment."""
        # An absolute path: MLflow's own default is relative to whatever directory a process happens to be in.
        return cls(
            uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root / 'mlflow.db'}", experiment or sweep, sweep, note
        )

    def ui_command(self) -> str | None:
        """Return the command that shows the runs on loopback. None: a server shows them already."""
        if self.uri.startswith(("http://", "https://")):
            return None
        return shlex.join([_mlflow_program(), "ui", "--backend-store-uri", self.uri, "--host", "127.0.0.1", "--port", "5000"])


class Tracker:
    """The writer: a thread that follows the jobs it is told of until they are done and shipped."""

    def __init__(self, target: Target, graph: Graph, store: Store) -> None:
        """Prepare; `start` connects.

        Args:
            target: Where to log.
            graph: The jobs.
            store: Where their files appear.
        """
        self.target = target
        self.run_id: str | None = None
        self.problem: str | None = None
        """Why the last attempt failed. None: it did not."""
        self._graph, self._store = graph, store
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open: dict[str, int] = {}
        """Nodes to follow, with the size of the history at the last look."""
        self._ledger = Ledger(store, target)
        self._runs: SweepRuns | None = None
        self._status = "KILLED"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    def untracked(self, nodes: Iterable[str]) -> list[str]:
        """Return those of some finished nodes that are not known to be logged in full."""
        return [node for node in nodes if not self._ledger.has(node)]

    def add(self, node: str) -> None:
        """Follow a node; thread-safe."""
        self._news.put(node)

    def listen(self, node: str, state: State) -> None:
        """Follow every node whose state changes: the searcher's listener."""
        self._news.put(node)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def finish(self, status: str, patience: float) -> int:
        """Ship what is left and stop.

        Args:
            status: How the sweep's run ends: `FINISHED`, `FAILED` or `KILLED`.
            patience: Longest wait in seconds. A server that does not answer is not waited for.

        Returns:
            How many nodes are left for a later run.
        """
        self._status = status
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        return len(self._open) + self._news.qsize()

    def _follow(self) -> None:
        pause = _INTERVAL
        while not self._ending.wait(pause):
            pause = _INTERVAL if self._ship_all() else min(2 * pause, _LONGEST_PAUSE)
        if self._ship_all() and self._runs is not None:
            try:
                self._runs.close(self._status)
            except Exception as error:
                self._lose_connection(error)

    def _ship_all(self) -> bool:
        """Make one round over the open nodes. Whatever goes wrong with the server ends the round; the next one connects anew."""
        while not self._news.empty():
            self._open[self._news.get()] = -1
        try:
            if self._runs is None:
                self._runs = self._connect()
            for node in list(self._open):
                self._ship(node, self._runs)
        except Exception as error:
            self._lose_connection(error)
            return False
        finally:
            self._ledger.save()
        self.problem = None
        return True

    def _connect(self) -> "SweepRuns":
        for name, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from orchestrator.mlflow_runs import SweepRuns  # seconds, which a run that finds everything done does not spend

        target = self.target
        runs = SweepRuns(target.uri, target.experiment, target.sweep, target.note, self._store.root / "mlflow-artifacts")
        self.run_id = runs.run_id
        return runs

    def _lose_connection(self, error: Exception) -> None:
        self._runs = None
        self.problem = (str(error).strip().splitlines() or [type(error).__name__])[0]

    def _ship(self, node: str, runs: "SweepRuns") -> None:
        """Bring one node's run up to date; a node that has ended is then forgotten."""
        record = self._store.read_json(node, JOB)
        if record is None:
            if self._graph.states[node] != "running":
                del self._open[node]  # blocked, or set back before it began
            return
        ended = self._ended(node)
        size = _size(self._store.directory(node) / HISTORY)
        if ended is None and size == self._open[node]:
            return
        run = self._run(node, record, runs)
        if run.state == "failed" and ended is None:
            runs.reopen_job(run)
        if run.state != "succeeded":
            self._ship_history(node, run, runs)
            if ended is not None:
                state, when = ended
                self._close(node, run, runs, state, when)
        self._open[node] = size
        if ended is not None:
            del self._open[node]
            if ended[0] == "succeeded":
                self._ledger.add(node, str(record.get("started")))

    def _ended(self, node: str) -> tuple[str, float] | None:
        for name, state in ((SUCCESS, "succeeded"), (FAILED, "failed")):
            marker = self._store.read_json(node, name)
            if marker is not None:
                return state, float(marker.get("time") or time.time())
        return None

    def _run(self, node: str, record: Mapping[str, Any], runs: "SweepRuns") -> "JobRun":
        job = self._graph.job(node)
        started = record.get("started")
        return runs.open_job(
            node,
            str(started),
            str(self._store.root),
            time=started if isinstance(started, float) else time.time(),
            name=job.path.partition("/")[2],
            tags=tags(job, self._graph.stage_of(node), record),
            parameters=parameters(job),
        )

    def _ship_history(self, node: str, run: "JobRun", runs: "SweepRuns") -> None:
        points = history_points(self._store.directory(node) / HISTORY, run.step)
        if points:
            runs.log(run, points, points[-1].step)

    def _close(self, node: str, run: "JobRun", runs: "SweepRuns", state: str, when: float) -> None:
        final = {}
        if state == "succeeded":
            result = self._store.read_json(node, RESULT) or {}
            runs.log(run, list(result_points(result, when)), run.step)
        else:
            final["error"] = str((self._store.read_json(node, FAILED) or {}).get("error"))
        runs.close_job(run, state, when, final)


class Ledger:
    """Which finished nodes are logged in full, so that a run with nothing to do need not ask the server."""

    def __init__(self, store: Store, target: Target) -> None:
        """Read what an earlier run noted about the same tracking URI and experiment."""
        self._store = store
        self._path = store.sidecar(target.sweep, _LEDGER)
        self._key = {"uri": target.uri, "experiment": target.experiment}
        content = store.load_json(self._path) or {}
        valid = all(content.get(name) == value for name, value in self._key.items()) and not _is_gone(target.uri)
        self._nodes: dict[str, str] = dict(content["nodes"]) if valid and isinstance(content.get("nodes"), dict) else {}
        self._changed = False

    def has(self, node: str) -> bool:
        """Tell whether this training of a node is logged."""
        record = self._store.read_json(node, JOB)
        return record is not None and self._nodes.get(node) == str(record.get("started"))

    def add(self, node: str, started: str) -> None:
        """Note a node."""
        self._nodes[node] = started
        self._changed = True

    def save(self) -> None:
        """Write what is new."""
        if self._changed:
            self._store.write_json(self._path, {**self._key, "nodes": self._nodes})
            self._changed = False


def _mlflow_program() -> str:
    """Return how to call this environment's `mlflow`, activated or not."""
    program = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    if not program.exists() or (found and Path(found).samefile(program)):
        return "mlflow"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def _is_gone(uri: str) -> bool:
    """Tell whether somebody removed the SQLite file that the ledger speaks of."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
