"""A sweep in a directory of its own, and `scalearn run` on it as a process, with the double in place of training."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from mlflow import MlflowClient

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.read_events import events

Finished: TypeAlias = "subprocess.CompletedProcess[str]"


def wait_until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    """Look again and again; fails when the condition stays false."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_while_running(
    process: "subprocess.Popen[Any]", happened: Callable[[], object], said: Callable[[], object], seconds: float
) -> None:
    """Wait; fails with what the process said where it ends before that, or never comes to it."""
    deadline = time.monotonic() + seconds
    while True:
        ended = process.poll() is not None  # first: what it did last counts too
        if happened():
            return
        assert not ended, said()
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


def table_of(output: str) -> list[str]:
    """The lines of the table that a run printed."""
    lines = [line for line in output.splitlines() if line[:1] in "┏┃┡│├└"]
    assert lines, output
    return lines


def family(pid: int) -> dict[int, str]:
    """A process and all that descend from it, by number, with the time at which each started."""
    parents, started = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)], started[int(entry.name)] = int(fields[1]), fields[19]
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {member: started[member] for member in found if member in started}


def survivors(members: dict[int, str]) -> dict[int, str]:
    """Those processes of a family that still run, with their command lines."""
    left = {}
    for pid, started in members.items():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[19] == started and fields[0] not in "ZX":
                left[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return left


def finished(process: "subprocess.Popen[str]") -> Finished:
    """Wait until a driver has ended; one that never does is killed."""
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Launch:
    """A working directory with a sweep, and `scalearn run` on it as a process of its own."""

    def __init__(self, directory: Path, repository: Path, sweep: str = SWEEP, name: str = "toy", url: str | None = None) -> None:
        self.name = name
        self.file = directory / f"{name}.yaml"
        self.file.write_text(sweep)
        self.store = Store(url or directory / "runs")
        self.tracking = f"sqlite:///{(directory if url else self.store.root) / 'mlflow.db'}"
        self.repository = repository
        self.place = directory if url else repository
        """Where drivers run. What belongs beside a store, a store behind a URL leaves in the working directory."""

    def start(self, *flags: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.orchestrator.helpers.launch", str(self.file), self.store.url, *flags]
        environment = {**os.environ, "PYTHONPATH": str(self.repository), **environment}
        return subprocess.Popen(command, cwd=self.place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *flags: str, **environment: str) -> Finished:
        return finished(self.start(*flags, **environment))

    def graph(self) -> Graph:
        return self._graph

    @functools.cached_property
    def _graph(self) -> Graph:
        """Read once: tests that look many times a second would take the time from what they look at."""
        return Sweep.load(self.file).expand()

    def node(self, part: str) -> str:
        (found,) = [node for node in self.graph().nodes() if part in node]
        return found

    def states(self) -> dict[str, str]:
        return {node: self.store.state(node) for node in self.graph().nodes()}

    def epoch(self, node: str) -> int:
        """The last epoch of a node that has a checkpoint; 0 while there is none."""
        try:
            return int((self.store.directory(node) / "checkpoint" / "epoch").read_text() or 0)
        except FileNotFoundError:  # a job that is done has none either
            return 0

    def attempts(self) -> dict[str, int]:
        records = {node: self.store.read_json(node, "job.json") for node in self.graph().nodes()}
        return {node: record["attempts"] for node, record in records.items() if record}

    def log(self, node: str) -> list[dict[str, Any]]:
        """What each start of a node left: the process and the epoch from which it went on."""
        return self._lines(node, "run.log")

    def history(self, node: str) -> list[dict[str, Any]]:
        return self._lines(node, "history.jsonl")

    def _lines(self, node: str, name: str) -> list[dict[str, Any]]:
        file = self.store.directory(node) / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def moments(self, state: str) -> dict[str, float]:
        """Time of the first such change of each node's state."""
        found: dict[str, float] = {}
        for event in events(self.store.sidecar(self.name, "events.jsonl")):
            if event.get("state") == state:
                found.setdefault(event["node"], event["time"])
        return found

    def tracked(self) -> dict[str, str]:
        """Status of the run of every node; fails when a node has two."""
        client = MlflowClient(self.tracking)
        runs = client.search_runs([client.get_experiment_by_name(self.name).experiment_id], "tags.kind = 'job'", max_results=1000)
        statuses = {run.data.tags["node"]: run.info.status for run in runs}
        assert len(statuses) == len(runs)
        return statuses
