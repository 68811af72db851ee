"""The tracker: one thread beside the driver that logs to MLflow what jobs left in the store. Training never waits for it.

What could not be logged, because the server was away or the driver died, is logged from the store by a later run.
"""

import contextlib
import os
import queue
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.store import FAILED, HISTORY, JOB, RESULT, SUCCESS, Store
from orchestrator.definition.graph import DONE, Graph, State
from orchestrator.storage.directory import size_of
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.run_facts import history_metrics, parameters, result_metrics, run_name, split_rows, tags
from orchestrator.tracking.sqlite_address import sqlite_file, sqlite_uri
from orchestrator.watching.report import Report
from scalearn.pauses import pause_after
from scalearn.secrets import first_line, without_secrets

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow_runs import JobRun, SweepRuns

_INTERVAL = 2.0
_LONGEST_PAUSE = 60.0
_OTHERS_PATIENCE = 60.0
"""Seconds for which the last round is repeated while another driver also logs, since that one will soon be done."""
_OTHERS_PAUSE = 0.2
_OTHERS = re.compile(r"database is locked|must be in the 'active' state|unique constraint|duplicate (?:key|entry)|deadlock", re.IGNORECASE)
"""Messages of errors that occur when another driver writes the same thing at the same time, or has deleted as a duplicate a run that we
write to. MLflow has no types for these errors."""
_OTHER_VERSION = "out-of-date database schema"
"""MLflow's message about a database of an older version, and about one of a newer version too."""
_MLFLOW_SETTINGS = {
    # MLflow itself would try for minutes per call, and a second attempt may create a run twice. The tracker looks first, then tries again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It would print two lines per job into the run's table.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
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
        """Fill in the defaults: `MLFLOW_TRACKING_URI`, else an SQLite file in the store, or in the working directory if the store is a URL.

        The default experiment has the sweep's name.
        """
        # An absolute path, since MLflow's own default depends on the directory in which a process is.
        named = uri or os.environ.get("MLFLOW_TRACKING_URI")
        return cls(_absolute(named) if named else sqlite_uri(_home(store) / "mlflow.db"), experiment or sweep, sweep, note)

    @property
    def address(self) -> str:
        """The URI without its secrets, for others to see."""
        return without_secrets(self.uri)

    def remark(self, store: Store) -> str | None:
        """Return a warning for a user whose runs are logged where other hosts cannot see them."""
        if store.is_local or not self.uri.startswith("sqlite:"):
            return None
        return f"Runs are logged to {self.address}, on this machine alone: name a server that every host sees by MLFLOW_TRACKING_URI."

    def ui_command(self) -> str | None:
        """Return the command that shows the runs on loopback. None: a server shows them already, or the command would hold a password."""
        if self.uri.startswith(("http://", "https://")) or self.address != self.uri:
            return None
        return shlex.join([program("mlflow"), "ui", "--backend-store-uri", self.uri, "--host", "127.0.0.1", "--port", "5000"])


class Tracker:
    """The tracker: a thread that follows the jobs that it is given until they are done and logged."""

    def __init__(self, target: Target, graph: Graph, store: Store) -> None:
        """Prepare. `start` connects.

        Args:
            target: Where to log.
            graph: The jobs.
            store: Where their files appear.
        """
        self.target = target
        self.run_id: str | None = None
        self.problem: str | None = None
        """Why the last attempt failed. None: it did not fail."""
        self._graph, self._store = graph, store
        self._artifacts = _home(store) / "mlflow-artifacts"
        self._place = without_secrets(store.url)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open: dict[str, int] = {}
        """Nodes to follow, each with the size of its history at the last look."""
        self.report_problem: str | None = None
        """Why the report is not logged. None: it is, or there is none."""
        self._report: Report | None = None
        self._ledger = Ledger(store, target.sweep, target.uri, target.experiment)
        self._runs: SweepRuns | None = None
        self._status = "KILLED"
        self._may_pass = False
        """Whether the last attempt failed because of another driver, so that the next may succeed."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    def untracked(self, nodes: Iterable[str]) -> list[str]:
        """Return the finished nodes that are not known to be logged in full."""
        names = list(nodes)
        seen = self._store.glance(names)  # or each node would cost a request to a store behind a URL
        return [node for node in names if not self._ledger.has(node, seen.read_json(node, JOB))]

    def add(self, node: str) -> None:
        """Follow a node. This is thread-safe."""
        self._news.put(node)

    def listen(self, node: str, state: State) -> None:
        """Follow every node whose state changes. The searcher calls this as its listener."""
        self._news.put(node)

    def start(self) -> None:
        """Begin to log."""
        self._thread.start()

    def finish(self, status: str, patience: float, report: Report | None = None) -> int:
        """Log what is left and a new report, check that the server has all that the ledger lists, and stop.

        Args:
            status: How the sweep's run ends: `FINISHED`, `FAILED` or `KILLED`.
            patience: Longest wait in seconds. It waits while another driver logs too, but not for a server that does not answer.
            report: The sweep's report. None: there is none.

        Returns:
            How many nodes are left for a later run.
        """
        self._status, self._report = status, report
        self._ending.set()
        if self._thread.ident is None and status != "KILLED":
            self._thread.start()
        if self._thread.is_alive():
            self._thread.join(patience)
        if self._report and self._report.mark != self._ledger.report:
            self.report_problem = self.report_problem or self.problem or "no time was left"
        return len(self._open) + self._news.qsize()

    def _follow(self) -> None:
        failures = 0
        while not self._ending.wait(pause_after(failures + 1, _INTERVAL, _LONGEST_PAUSE)):
            failures = 0 if self._ship_all() else failures + 1
        until = None
        while not self._ship_last() and self._may_pass:
            until = until or time.monotonic() + _OTHERS_PATIENCE
            if time.monotonic() > until:
                break
            time.sleep(_OTHERS_PAUSE)

    def _ship_last(self) -> bool:
        """Make the last round, check that everything is logged, and return whether nothing is left to do."""
        if not self._ship_all() or self._runs is None:
            return False
        try:
            self._runs.join_duplicates()
            self._may_pass = self._doubt(self._runs)
            self._ship_report(self._runs)
            self._runs.close(self._status)
        except Exception as error:
            self._lose_connection(error)
            return False
        return not self._may_pass

    def _ship_all(self) -> bool:
        """Make one round over the open nodes. Any error of the server ends the round, and the next round connects anew."""
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
            with contextlib.suppress(OSError):  # the store is away: saved by a later round
                self._ledger.save()
        self.problem = None
        return True

    def _connect(self) -> "SweepRuns":
        for name, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from orchestrator.tracking.mlflow_runs import SweepRuns  # imported here: it takes seconds, saved if all is done

        target = self.target
        runs = SweepRuns(target.uri, target.experiment, target.sweep, target.note, self._artifacts)
        self._ledger.note_experiment(runs.experiment_id)
        self._doubt(runs)
        self._ship_manifest(runs)
        return runs

    def _doubt(self, runs: "SweepRuns") -> bool:
        """Follow again the nodes of the ledger whose run is missing: it was deleted, or will be joined with one that is not complete.

        Returns:
            Whether there are any.
        """
        self.run_id = runs.run_id
        done = {node: started for node, started in self._ledger.nodes.items() if self._graph.states.get(node) in DONE}
        lacking = [node for node, started in done.items() if runs.lacks(node, started, self._place)]
        for node in lacking:
            self._open.setdefault(node, -1)
        return bool(lacking)

    def _ship_manifest(self, runs: "SweepRuns") -> str | None:
        """Attach the manifest, and return why that failed. A server that takes no files may still take numbers, so the round goes on."""
        manifest = self._store.load_json(self._store.manifest_path(self.target.sweep))
        try:
            if manifest is not None:
                runs.log_manifest(manifest)
        except Exception as error:
            return _reason(error)
        return None

    def _ship_report(self, runs: "SweepRuns") -> None:
        report = self._report
        if report is None:
            return
        chosen = set(report.chosen)
        runs.mark_chosen({node: node in chosen for node in self._graph.nodes()})
        if report.mark == runs.report_mark:
            self._report = None
            return
        self.report_problem = self._ship_manifest(runs)
        try:
            runs.log_report(report.folder, report.mark, report.description, report.metrics)
        except Exception as error:
            if _is_others(error):
                raise
            self.report_problem = _reason(error)
        if self.report_problem is None:
            self._report = None
            self._ledger.note_report(report.mark)
            with contextlib.suppress(OSError):  # then the next run logs it again
                self._ledger.save()

    def _lose_connection(self, error: Exception) -> None:
        self._runs = None
        self.problem, self._may_pass = _reason(error), _is_others(error)

    def _ship(self, node: str, runs: "SweepRuns") -> None:
        """Bring one node's run up to date. A node that has ended is then forgotten."""
        record = self._store.read_json(node, JOB)
        if record is None:
            if self._graph.states[node] != "running":
                del self._open[node]  # blocked, or pending again before it began
            return
        ended = self._ended(node)
        size = size_of(self._store.directory(node) / HISTORY)
        if ended is None and size == self._open[node]:
            return
        record = {**record, "stage": self._graph.stage_of(node)}
        run = self._run(node, record, runs)
        if run.state == "failed" and ended is None:
            runs.reopen_job(run)
        if run.state != "succeeded":
            self._ship_history(node, run, runs)
            if ended is not None:
                self._close(node, run, runs, record, ended)
        self._open[node] = size
        if ended is not None:
            del self._open[node]
            if "error" not in ended:
                self._ledger.add(node, str(record.get("started")))

    def _ended(self, node: str) -> dict[str, Any] | None:
        """Return the marker of a job that has ended. A failed job's marker has an `error`."""
        for name in (SUCCESS, FAILED):
            marker = self._store.read_json(node, name)
            if marker is not None:
                return marker if name == SUCCESS else {"error": None, **marker}
        return None

    def _run(self, node: str, record: Mapping[str, Any], runs: "SweepRuns") -> "JobRun":
        job = self._graph.job(node)
        started = record.get("started")
        return runs.open_job(
            node,
            str(started),
            self._place,
            time=started if isinstance(started, float) else time.time(),
            name=run_name(job),
            tags=tags(job, self._graph.stage_of(node), record),
            parameters=parameters(job),
            record=record,
        )

    def _ship_history(self, node: str, run: "JobRun", runs: "SweepRuns") -> None:
        values = history_metrics(self._store.directory(node) / HISTORY, run.step)
        if values:
            runs.log(run, values, values[-1].step)

    def _close(self, node: str, run: "JobRun", runs: "SweepRuns", record: Mapping[str, Any], marker: Mapping[str, Any]) -> None:
        when, result = float(marker.get("time") or time.time()), None
        if "error" not in marker:
            result = self._store.read_json(node, RESULT) or {}
            runs.log(run, list(result_metrics(result, when)), run.step)
            runs.log_data(run, list(split_rows(self._graph.job(node), result)))
        runs.close_job(run, node, when, record, result, marker)


def program(name: str) -> str:
    """Return the command of a program of this environment, whether the environment is activated or not."""
    here = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not here.exists() or (found and Path(found).samefile(here)):
        return name
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)


def _home(store: Store) -> Path:
    """Return the directory of the default SQLite file. SQLite locks bytes of a file, which an object store cannot do."""
    return store.root if store.is_local else Path.cwd()


def _absolute(uri: str) -> str:
    """Return a tracking URI that means the same in every directory. An SQLite URI may be relative."""
    file = sqlite_file(uri)
    if file is None or file.is_absolute():
        return uri
    _, query, rest = uri.partition("?")
    return f"{sqlite_uri(Path.cwd() / file)}{query}{rest}"


def _is_others(error: Exception) -> bool:
    return _OTHERS.search(str(error)) is not None


def _reason(error: Exception) -> str:
    if _OTHER_VERSION in str(error):
        return "the database is of another version of MLflow than is installed: install that one or, if it is older, `mlflow db upgrade` it"
    return first_line(error)
