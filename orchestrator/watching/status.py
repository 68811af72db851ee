"""How far a sweep is, as seen from any process that can read the store. This writes nothing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from orchestrator.artifacts.store import FAILED, RESULT, TRACEBACK, Store
from orchestrator.definition.graph import DONE, Graph, State
from orchestrator.drivers.heartbeat import Driver, drivers
from orchestrator.terminal import as_html
from orchestrator.watching.progress import STAGES, show_left, show_seconds, stage_cells, stage_table
from orchestrator.watching.running import RunningJob, read_running
from scalearn.files.json_files import parse

_SAMPLE = 8
"""How many done jobs of each stage and method have their results read. Behind a URL, each of them costs a request."""


@dataclass(frozen=True)
class JobStatus:
    """The present state of one job."""

    node: str
    state: State
    stage: str
    method: str
    task: str
    error: str | None = None
    """First line of the error; for a blocked job, the parent that failed."""
    traceback: str | None = None
    """The file that holds the rest of the error."""
    step: int | None = None
    """Of a running job: steps at its newest evaluation."""
    total_steps: int | None = None
    epoch: float | None = None
    score: str | None = None
    """Newest validation scores of a running job."""
    driver: str | None = None
    """Of a running job: the host and the process of its driver."""
    worker: str | None = None
    """Of a running job: the host that trains it, and the device there."""
    seconds: float | None = None
    """Of a running job: seconds of training and evaluation so far. Of some done jobs: their total seconds."""


@dataclass(frozen=True)
class SweepStatus:
    """The present state of a sweep."""

    sweep: str
    jobs: tuple[JobStatus, ...]
    drivers: tuple[Driver, ...] = ()
    """The drivers that run the sweep."""

    @property
    def running(self) -> bool:
        """Whether a driver is running the sweep."""
        return bool(self.drivers)

    def left(self, stage: str | None = None, method: str | None = None) -> float | None:
        """Return the seconds until all jobs (of a stage, of a method) are done, from the durations of the same method, or else stage.

        None: this cannot be known, since no job is finished or none is running.
        """
        todo = [job for job in self._of(stage, method) if job.state in ("pending", "running")]
        running = sum(job.state == "running" for job in self.jobs)
        if not todo:
            return 0.0
        if not self._means or not running:
            return None
        work = sum(max(0.0, self._expected(job) - ((job.seconds or 0.0) if job.state == "running" else 0.0)) for job in todo)
        return work / running

    def groups(self) -> dict[tuple[str, str], Counter[State]]:
        """Return how many jobs of each stage and method are in each state, in the order in which the stages tend to run."""
        found: dict[tuple[str, str], Counter[State]] = {}
        for job in sorted(self.jobs, key=lambda job: STAGES.index(job.stage) if job.stage in STAGES else len(STAGES)):
            found.setdefault((job.stage, job.method), Counter())[job.state] += 1
        return found

    def _of(self, stage: str | None, method: str | None) -> list[JobStatus]:
        return [job for job in self.jobs if stage in (None, job.stage) and method in (None, job.method)]

    def _expected(self, job: JobStatus) -> float:
        return next(self._means[key] for key in ((job.stage, job.method), (job.stage, ""), ("", "")) if key in self._means)

    @cached_property
    def _means(self) -> dict[tuple[str, str], float]:
        """Return the mean seconds of finished jobs: by stage and method, by stage, and over all."""
        taken: dict[tuple[str, str], list[float]] = {}
        for job in self.jobs:
            if job.state in DONE and job.seconds:
                for key in ((job.stage, job.method), (job.stage, ""), ("", "")):
                    taken.setdefault(key, []).append(job.seconds)
        return {key: sum(values) / len(values) for key, values in taken.items()}

    def _repr_html_(self) -> str:
        return as_html(lambda console: print_status(self, console))

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values, with the same counts as a plan."""
        return {
            "sweep": self.sweep,
            "running": self.running,
            "seconds_left": self.left(),
            "drivers": [{"name": driver.name, "host": driver.host, "pid": driver.pid} for driver in self.drivers],
            "groups": [
                {"stage": stage, "method": method, "jobs": dict(counts), "seconds_left": self.left(stage, method)}
                for (stage, method), counts in self.groups().items()
            ],
            "jobs": {
                "total": len(self.jobs),
                "by_stage": dict(Counter(job.stage for job in self.jobs)),
                "by_method": dict(Counter(job.method for job in self.jobs if job.stage == "transfer")),
                "by_state": dict(Counter(job.state for job in self.jobs)),
            },
            "nodes": [{name: value for name, value in vars(job).items() if value is not None} for job in self.jobs],
        }


def read_status(sweep: str, graph: Graph, store: Store) -> SweepStatus:
    """Return how far a sweep is.

    Args:
        sweep: Its name.
        graph: Its jobs, all pending. This marks them with their states in the store.
        store: Where their artifacts lie.
    """
    at_work = tuple(drivers(store, sweep))
    running = {node: f"{driver.host}, process {driver.pid}" for driver in at_work for node in driver.running}
    for node, state in store.states(graph.nodes()).items():
        if state == "succeeded":
            graph.mark(node, "succeeded")
        elif state == "failed" and node not in running:
            graph.mark(node, "failed")
    for node in graph.nodes():
        if node in running and graph.states[node] == "pending" and all(graph.states[parent] in DONE for parent in graph.parents(node)):
            graph.mark(node, "running")
    records = _records(graph, store)
    return SweepStatus(sweep, tuple(_job_status(graph, store, node, records.get(node) or {}, running) for node in graph.nodes()), at_work)


def print_status(status: SweepStatus, console: Console, *, done: bool = False) -> None:
    """Print a table per stage and method, then the running jobs, then the failed ones; before them the finished ones, if wanted."""
    console.print(Group(*lines_of(status, done=done)), soft_wrap=True, highlight=False)


def lines_of(status: SweepStatus, *, done: bool = False) -> list[RenderableType]:
    """Return what is shown: the table, then lines. `done` says whether finished jobs have lines too."""
    table = stage_table(status.sweep, "method")
    for (stage, method), counts in status.groups().items():
        table.add_row(stage, method, *stage_cells(counts), show_seconds(status.left(stage, method)))
    found: list[RenderableType] = [table]
    found += [Text(f"done     {job.node}", style="green") for job in status.jobs if done and job.state in DONE]
    for job in status.jobs:
        if job.state == "running":
            progress = RunningJob(job.step, job.total_steps, job.epoch).progress
            score, worker = ("" if text is None else f"{before}{text}" for before, text in ((", ", job.score), (" on ", job.worker)))
            found.append(Text(f"running  {job.node}: {progress}{score}{worker} ({job.driver})"))
    for job in status.jobs:
        if job.state in ("failed", "blocked"):
            place = "" if job.traceback is None else f" ({job.traceback})"
            found.append(Text(f"{job.state:<8} {job.node}: {job.error}{place}", style="red"))
    if status.running:
        left = show_left(status.left())
        found.append(Text(f"{left[:1].upper()}{left[1:]}.", style="dim"))
    elif any(job.state == "pending" for job in status.jobs):
        found.append(Text("No driver is at work: `scalearn run` starts or resumes the sweep."))
    return found


def show_counts(status: SweepStatus) -> str:
    """Return the status in one line: `toy: 3/10 done, 2 running, 5 waiting, 0 failed, 0 blocked, about 20 s left`."""
    counts = Counter(job.state for job in status.jobs)
    done = sum(counts[state] for state in DONE)
    words = f"{counts['running']} running, {counts['pending']} waiting, {counts['failed']} failed, {counts['blocked']} blocked"
    left = f", {show_left(status.left())}" if status.running else ""
    return f"{status.sweep}: {done}/{len(status.jobs)} done, {words}{left}"


def _records(graph: Graph, store: Store) -> dict[str, dict[str, Any] | None]:
    """Read the errors of failed jobs and, if some jobs are running, the durations of a few done ones, from which the rest is estimated."""
    wanted = {store.directory(node) / FAILED: node for node, state in graph.states.items() if state == "failed"}
    if "running" in graph.states.values():
        done: dict[tuple[str, str], list[str]] = {}
        for node, state in graph.states.items():
            if state == "succeeded":
                done.setdefault((graph.stage_of(node), graph.job(node).config.method), []).append(node)
        for nodes in done.values():
            # Spread over the group, since jobs of one task are neighbours in it, and tasks differ in size.
            wanted |= {store.directory(node) / RESULT: node for node in nodes[:: -(-len(nodes) // _SAMPLE)]}
    return {wanted[path]: parse(content) for path, content in store.storage.read_many(wanted)}


def _job_status(graph: Graph, store: Store, node: str, record: dict[str, Any], running: Mapping[str, str]) -> JobStatus:
    job, state = graph.job(node), graph.states[node]
    extra: dict[str, Any] = {}
    if state == "failed":
        extra = {"error": str(record.get("error")), "traceback": str(store.directory(node) / TRACEBACK)}
    elif state == "blocked":
        extra = {"error": f"its parent {graph.blocked_by(node)} failed"}
    elif state == "succeeded":
        timing = record.get("timing")
        extra = {"seconds": sum(value for value in timing.values() if isinstance(value, int | float)) if isinstance(timing, dict) else None}
    elif state == "running":
        extra = {"driver": running[node], **vars(read_running(store, node))}
    return JobStatus(node, state, graph.stage_of(node), job.config.method, "+".join(job.tasks), **extra)
