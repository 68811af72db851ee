"""What a run would do: every job with its state, and why a job that looks finished is not. This writes nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.definition.identity import schema_version
from orchestrator.terminal import as_html
from scalearn.identity import flat, is_place, to_plain
from scalearn.tasks import task_of

if TYPE_CHECKING:
    from orchestrator.artifacts.store import Store
    from orchestrator.definition.graph import Graph, Job
    from orchestrator.definition.sweep import Sweep

_STYLES = {"cached": "green", "failed": "red", "blocked": "red", "running": "yellow"}
UNPROPOSED = "unproposed"
_SHOWN = 4
"""How many differences are named. A job with more of them is simply another job."""
_LEGEND = ("similarity", "source", "transferability", "transfer", "joint", "single")


class Records(Protocol):
    """What a plan needs to read from a store."""

    def state(self, node: str) -> str:
        """Return `succeeded`, `failed`, `running` or `pending`."""

    def namesakes(self, path: str) -> Iterable[Mapping[str, Any]]:
        """Return the `job.json` of every job at a readable path, whatever its fingerprint."""


@dataclass(frozen=True)
class PlannedJob:
    """One line of the plan."""

    node: str
    path: str
    state: str
    """`cached`: done. `pending`: to be run. `failed`: failed before and will be tried again. `running`: another driver has it.
    `unproposed`: it stands in for a job of a trial that the search has yet to propose, so its node is not known."""
    stage: str
    method: str
    task: str
    """Full key of the task. For a joint job, several keys joined by `+`."""
    why: str | None = None
    """For a pending job: the fields in which it differs from the stored job of the same path, if there is one."""


@dataclass(frozen=True)
class PlanResult:
    """The present states of a sweep's jobs."""

    sweep: str
    jobs: tuple[PlannedJob, ...]
    warnings: tuple[str, ...] = ()
    """What is ambiguous or suspicious in the files of the user's own tasks, in one sentence each."""

    def cached(self) -> list[str]:
        """Return the nodes that are done."""
        return [job.node for job in self.jobs if job.state == "cached"]

    def _repr_html_(self) -> str:
        return as_html(lambda console: print_plan(self, console))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values. `by_method` counts only jobs of the second stage."""
        return {
            "sweep": self.sweep,
            "jobs": {
                "total": len(self.jobs),
                "by_stage": dict(Counter(job.stage for job in self.jobs)),
                "by_method": dict(Counter(job.method for job in self.jobs if job.stage == "transfer")),
                "by_state": {"cached": 0, "pending": 0} | Counter(job.state for job in self.jobs),
            },
            "warnings": list(self.warnings),
            "nodes": [_row(job) for job in self.jobs if job.state != UNPROPOSED],
        }


def plan_sweep(sweep: "Sweep", graph: "Graph", store: "Store", ahead: "Graph | None" = None) -> PlanResult:
    """Return what a run of a sweep would do, and what is ambiguous or suspicious in the files of the user's own tasks.

    Args:
        sweep: The sweep.
        graph: Its jobs, all or some of them.
        store: Where artifacts lie.
        ahead: As for `plan`.
    """
    return replace(plan(sweep.name, graph, store.glance(graph.nodes()), ahead), warnings=_warnings(sweep, graph))


def _warnings(sweep: "Sweep", graph: "Graph") -> tuple[str, ...]:
    own = {data.task: task_of(data) for job in graph for data in job.config.data if data.own is not None}
    if not own:
        return ()
    from scalearn.tasks.local_labels import local_warnings  # it loads pyarrow, which plans of published tasks do not need

    root = None if sweep.data.root is None else Path(sweep.data.root)
    return tuple(sentence for task in own.values() for sentence in local_warnings(task, root))


def plan(name: str, graph: "Graph", store: Records | None = None, ahead: "Graph | None" = None) -> PlanResult:
    """Return what a run of a graph would do.

    Args:
        name: The sweep's name.
        graph: Its jobs, all or some of them.
        store: Where artifacts lie. None: nothing is done yet.
        ahead: The same jobs, and stand-ins for those of trials that are still to be proposed. None: there are none.
    """
    jobs = []
    for job in graph:
        state = "pending" if store is None else store.state(job.node)
        state = "cached" if state == "succeeded" else state
        why = difference(job, store.namesakes(job.path)) if store is not None and state == "pending" else None
        method, task = job.config.method, "+".join(job.tasks)
        jobs.append(PlannedJob(job.node, job.path, state, graph.stage_of(job.node), method, task, why))
    if ahead is not None:
        new = (job for job in ahead if job.node not in graph)
        jobs += [
            PlannedJob(job.node, job.path, UNPROPOSED, ahead.stage_of(job.node), job.config.method, "+".join(job.tasks)) for job in new
        ]
    return PlanResult(name, tuple(jobs))


def difference(job: "Job", namesakes: Iterable[Mapping[str, Any]]) -> str | None:
    """Return how a job differs from the most similar stored job of the same path. None: there is none.

    Args:
        job: A job that is not in the store.
        namesakes: `job.json` of the stored jobs, which may come from older versions or be damaged.
    """
    found: list[list[str]] = [lines for namesake in namesakes if (lines := list(_differences(job, namesake)))]
    nearest = min(found, key=len, default=None)
    if not nearest:
        return None
    return "; ".join(nearest[:_SHOWN]) + (f"; and {len(nearest) - _SHOWN} more" if len(nearest) > _SHOWN else "")


def print_plan(result: PlanResult, console: Console, *, limit: int = 60) -> None:
    """Print counts per stage and method, then warnings, jobs that differ from their stored namesakes, and paths; in sum last.

    Args:
        result: The plan.
        console: Where to print.
        limit: The most paths to print.
    """
    console.print(_counts(result))
    for warning in result.warnings:
        console.print(f"warning  {warning}", soft_wrap=True, highlight=False, markup=False)
    for why, jobs in _changed(result).items():
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        console.print(f"changed  {jobs[0].path}{more}: {why}", soft_wrap=True, highlight=False, markup=False)
    known = [job for job in result.jobs if job.state != UNPROPOSED]
    for job in known[:limit]:
        console.print(Text(f"{job.state:<8} ", _STYLES.get(job.state, "")) + Text(job.node), soft_wrap=True, highlight=False)
    if len(known) > limit:
        console.print(f"... and {len(known) - limit} more; --json lists them all", highlight=False)
    if unproposed := len(result.jobs) - len(known):
        console.print(f"... and {unproposed} of trials that the search has yet to propose, planned as random ones", highlight=False)
    states = Counter(job.state for job in result.jobs)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{result.sweep}: {len(result.jobs)} jobs ({counted})", highlight=False, soft_wrap=True, markup=False)


def _changed(result: PlanResult) -> dict[str, list[PlannedJob]]:
    """Return the jobs that differ from the stored job of the same path, grouped by the difference."""
    changed: dict[str, list[PlannedJob]] = {}
    for job in result.jobs:
        if job.why is not None:
            changed.setdefault(job.why, []).append(job)
    return changed


def _counts(result: PlanResult) -> Table:
    states = sorted({"cached", "pending"} | {job.state for job in result.jobs})
    table = Table()
    table.add_column("stage")
    table.add_column("method", no_wrap=True)
    for heading in ("jobs", *states):
        table.add_column(heading, justify="right")
    stages = sorted({job.stage for job in result.jobs}, key=_LEGEND.index)
    for stage in stages:
        here = [job for job in result.jobs if job.stage == stage]
        for method in dict.fromkeys(job.method for job in here):
            rows = [job for job in here if job.method == method]
            table.add_row(stage, method, str(len(rows)), *_by_state(rows, states))
    table.add_section()
    table.add_row("all", "", str(len(result.jobs)), *_by_state(result.jobs, states))
    return table


def _by_state(jobs: Sequence[PlannedJob], states: Iterable[str]) -> list[str]:
    counts = Counter(job.state for job in jobs)
    return [str(counts[state]) for state in states]


def _row(job: PlannedJob) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if value is not None}


def _differences(job: "Job", namesake: Mapping[str, Any]) -> Iterator[str]:
    stored = dict(flat(namesake.get("config")))
    wanted = dict(flat(to_plain(job.config)))
    for name in sorted(wanted.keys() | stored.keys()):
        younger = name not in stored and not wanted.get(name)  # the field is newer than the stored job, and has its default
        if younger or name == "compared" or is_place(name):
            continue
        if wanted.get(name) != stored.get(name):
            yield f"{name} is {_shown(wanted, name)}, stored {_shown(stored, name)}"
    if (before := stored.get("compared")) != (now := wanted["compared"]) and before and now:
        yield "early stopping compares it with other learning rates or seeds"
    nodes = namesake.get("parents")
    older = nodes if isinstance(nodes, list) else []
    fresh = [parent.node for index, parent in enumerate(job.parents) if index >= len(older) or older[index] != parent.node]
    if fresh:
        yield f"its parent {fresh[0]} is new" if len(fresh) == 1 else f"{len(fresh)} of its parents are new, the first {fresh[0]}"
    version = schema_version(job.config)
    # Older jobs call it `identity`.
    if (before := namesake.get("schema_version", namesake.get("identity", version))) != version:
        yield f"identity schema is {version}, stored {before}"


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "absent"
