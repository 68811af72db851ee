"""How far a sweep is, seen from any process that can read the store. Writes nothing."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestrator.graph import DONE, Graph, State
from orchestrator.journal import running_nodes
from orchestrator.progress import STAGES, show_seconds, stage_cells, stage_table
from orchestrator.run_facts import history_records
from orchestrator.store import FAILED, HISTORY, RESULT, TRACEBACK, Store


@dataclass(frozen=True)
class JobStatus:
    """One job as it stands."""

    node: str
    state: State
    stage: str
    method: str
    task: str
    error: str | None = None
    """First line of a failure; for a blocked job, which parent failed."""
    traceback: str | None = None
    """File with the rest."""
    step: int | None = None
    """Of a running job: steps behind its newest evaluation."""
    total_steps: int | None = None
    epoch: float | None = None
    score: str | None = None
    """Newest validation scores of a running job."""
    seconds: float | None = None
    """Of a done job: how long training and evaluation took. Of a running one: so far."""


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as it stands."""

    sweep: str
    jobs: tuple[JobStatus, ...]

    @property
    def running(self) -> bool:
        """Whether a driver is at work."""
        return any(job.state == "running" for job in self.jobs)

    def left(self, stage: str | None = None) -> float | None:
        """Return the seconds until all jobs (of a stage) are done, by what the finished ones took. None: nobody can know."""
        known = {name: [j.seconds for j in self.jobs if j.stage == name and j.state in DONE and j.seconds] for name in STAGES}
        everything = [seconds for values in known.values() for seconds in values]
        todo = [job for job in self.jobs if job.state in ("pending", "running") and stage in (None, job.stage)]
        if not todo:
            return 0.0
        if not everything or not self.running:
            return None
        means = {name: sum(values or everything) / len(values or everything) for name, values in known.items()}
        work = sum(max(0.0, means.get(job.stage, 0.0) - (job.seconds or 0.0 if job.state == "running" else 0.0)) for job in todo)
        return work / sum(job.state == "running" for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values, counted as `plan` counts."""
        return {
            "sweep": self.sweep,
            "running": self.running,
            "seconds_left": self.left(),
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
        graph: Its jobs, all pending; they are marked as the store has them.
        store: Where their artifacts are.
    """
    running = set(running_nodes(store, sweep))
    for node in graph.nodes():
        state = store.state(node)
        if state == "succeeded":
            graph.mark(node, "succeeded")
        elif state == "failed" and node not in running:
            graph.mark(node, "failed")
    for node in graph.nodes():
        if node in running and graph.states[node] == "pending" and all(graph.states[parent] in DONE for parent in graph.parents(node)):
            graph.mark(node, "running")
    return SweepStatus(sweep, tuple(_job_status(graph, store, node) for node in graph.nodes()))


def print_status(status: SweepStatus, console: Console) -> None:
    """Print a table per stage, then the running jobs, then what failed."""
    table = stage_table(status.sweep)
    for stage in STAGES:
        counts = Counter(job.state for job in status.jobs if job.stage == stage)
        if counts:
            table.add_row(*stage_cells(stage, counts), show_seconds(status.left(stage)))
    console.print(table)
    for job in status.jobs:
        if job.state == "running":
            steps = f"step {job.step}/{job.total_steps}" if job.total_steps else f"step {job.step or 0}"
            _line(console, f"running  {job.node}: {steps}{'' if job.score is None else ', ' + job.score}")
    for job in status.jobs:
        if job.state in ("failed", "blocked"):
            place = "" if job.traceback is None else f" ({job.traceback})"
            _line(console, f"{job.state:<8} {job.node}: {job.error}{place}", "red")
    if not status.running and any(job.state == "pending" for job in status.jobs):
        _line(console, "No driver is at work: `scalearn run` starts or resumes the sweep.")


def _job_status(graph: Graph, store: Store, node: str) -> JobStatus:
    job, state = graph.job(node), graph.states[node]
    extra: dict[str, Any] = {}
    if state == "failed":
        record = store.read_json(node, FAILED) or {}
        extra = {"error": str(record.get("error")), "traceback": str(store.directory(node) / TRACEBACK)}
    elif state == "blocked":
        extra = {"error": f"its parent {graph.blocked_by(node)} failed"}
    elif state == "succeeded":
        timing = (store.read_json(node, RESULT) or {}).get("timing") or {}
        extra = {"seconds": sum(value for value in timing.values() if isinstance(value, int | float))}
    elif state == "running" and (records := list(history_records(store.directory(node) / HISTORY))):
        newest = records[-1]
        scores = ", ".join(f"{name} {value:.4g}" for name, value in (newest.get("validation") or {}).items())
        extra = {"score": f"validation {scores}" if scores else None}
        extra |= {name: newest.get(name) for name in ("step", "total_steps", "epoch", "seconds")}
    return JobStatus(node, state, graph.stage_of(node), job.config.method, "+".join(job.tasks), **extra)


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)
