"""How far a sweep is: a live table on a terminal, and one line per finished job elsewhere."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.definition.graph import Graph, State
from orchestrator.watching.running import RunningJob
from scalearn.errors import UserError

STAGES = ("source", "single", "joint", "transferability", "transfer")
"""The stages in the order in which they tend to run."""
_SHOWN = 8
"""How many running jobs are named."""
_LOOK_SECONDS = 5.0
"""Seconds between two looks at what running jobs have left in the store."""


class ProgressDisplay:
    """Listens to the searcher and shows the sweep's progress. Use as a context manager."""

    def __init__(self, graph: Graph, console: Console, read: Callable[[str], RunningJob] = lambda node: RunningJob()) -> None:
        """Prepare.

        Args:
            graph: The jobs and their states.
            console: Where to show the progress.
            read: Returns what a running job has left so far. It is called only where there is a terminal.
        """
        self._graph, self._console, self._read = graph, console, read
        self._seen: dict[str, tuple[float, RunningJob]] = {}
        self._stages = {node: graph.stage_of(node) for node in graph.nodes()}
        self._clock = Clock()
        self._ended = 0
        self._told: tuple[float, str] | None = None
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)
        self._draws = console.is_terminal

    def __enter__(self) -> "ProgressDisplay":
        """Begin to draw."""
        if self._draws:
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing. The next output on the terminal takes the table's place."""
        if self._draws:
            self._live.__exit__(kind, error, trace)

    def listen(self, node: str, state: State) -> None:
        """Record a change of state."""
        seconds = self._clock.note(node, self._stage(node), state)
        if state not in ("succeeded", "failed"):
            return
        self._ended += 1
        if not self._draws or state == "failed":
            style = "red" if state == "failed" else ""
            counts = self._graph.counts()
            total = self._ended + counts["running"] + counts["pending"] + counts["blocked"]
            line = Text(f"{time.strftime('%H:%M:%S')} {self._ended:>{len(str(total))}}/{total} ")
            line += Text(state, style) + Text(f" {node} in {show_seconds(seconds)}, {self._left()}")
            self._console.print(line, soft_wrap=True, highlight=False)

    def _stage(self, node: str) -> str:
        if node not in self._stages:  # the graph has grown
            self._stages[node] = self._graph.stage_of(node)
        return self._stages[node]

    def _left(self) -> str:
        """Return the remaining time for one line. It is computed once a second at most, since a sweep may have very many jobs."""
        if self._told is None or time.monotonic() - self._told[0] > 1.0:
            remaining = Counter(self._stage(node) for node, state in dict(self._graph.states).items() if state in ("running", "pending"))
            self._told = time.monotonic(), show_left(self._clock.left(remaining))
        return self._told[1]

    def _render(self) -> RenderableType:
        by_stage: dict[str, Counter[State]] = defaultdict(Counter)
        for node, state in dict(self._graph.states).items():
            by_stage[self._stage(node)][state] += 1
        table = stage_table()
        remaining = {}
        for stage in sorted(by_stage, key=_rank):
            counts = by_stage[stage]
            remaining[stage] = counts["running"] + counts["pending"]
            table.add_row(stage, *stage_cells(counts), show_seconds(self._clock.left({stage: remaining[stage]})))
        total = f"{show_seconds(self._clock.elapsed())} gone, {show_left(self._clock.left(remaining))}"
        return Group(table, *self._running(), Text(total, style="dim"))

    def _running(self) -> list[Text]:
        """Return a line for each running job, up to a few."""
        nodes = [node for node, state in dict(self._graph.states).items() if state == "running"]
        shown, more = nodes[:_SHOWN], len(nodes) - _SHOWN
        self._seen = {node: self._look(node) for node in shown}
        lines = [_line(node, self._seen[node][1]) for node in shown]
        return [*lines, Text(f"and {more} more")] if more > 0 else lines

    def _look(self, node: str) -> tuple[float, RunningJob]:
        """Return what a running job has left, and when this was read. A store that is away for the moment is asked again later."""
        now, seen = time.monotonic(), self._seen.get(node)
        if seen is not None and now - seen[0] < _LOOK_SECONDS:
            return seen
        try:
            return now, self._read(node)
        except (OSError, UserError):
            return now, RunningJob() if seen is None else seen[1]


class Clock:
    """The durations of finished jobs, from which the remaining time is estimated."""

    def __init__(self) -> None:
        """Start at zero."""
        self._begin = time.monotonic()
        self._began: dict[str, float] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._widest = 1

    def note(self, node: str, stage: str, state: State) -> float | None:
        """Record a job's state. Return the job's duration in seconds if it has just ended."""
        now = time.monotonic()
        if state == "running":
            self._began[node] = now
            self._widest = max(self._widest, len(self._began))
            return None
        began = self._began.pop(node, None)
        if began is None:
            return None
        if state == "succeeded":
            self._seconds[stage].append(now - began)
        return now - began

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._begin

    def left(self, remaining: Mapping[str, int]) -> float | None:
        """Return the seconds until so many jobs per stage are done, if they take as long as earlier ones. None: not known yet."""
        known = [value for values in self._seconds.values() for value in values]
        if not any(remaining.values()):
            return 0.0
        if not known:
            return None
        work = 0.0
        for stage, count in remaining.items():
            values = self._seconds[stage] or known
            work += count * sum(values) / len(values)
        return work / self._widest


def stage_table(title: str | None = None, *more: str) -> Table:
    """Return an empty table with a column for the stage, the columns that are named, and one column per state."""
    table = Table("stage", *more, title=title, title_justify="left", pad_edge=False)
    for name in ("done", "running", "waiting", "failed", "blocked", "time left"):
        table.add_column(name, justify="right")
    return table


def stage_cells(counts: Counter[State]) -> list[str | Text]:
    """Return the cells of a row of that table that hold the counts by state."""
    done, failed = counts["succeeded"] + counts["cached"], counts["failed"]
    total = sum(counts.values())
    return [f"{done}/{total}", str(counts["running"]), str(counts["pending"]), _alarm(failed), _alarm(counts["blocked"])]


def _line(node: str, job: RunningJob) -> Text:
    """Return a line for a running job, without the parts of its node that all jobs of a sweep share."""
    name = "/".join(node.split("/")[2:]).rpartition("-")[0]
    rest = [job.progress, *(text.removeprefix("validation ") for text in (job.score, job.worker) if text)]
    return Text(f"{name}  ", no_wrap=True, overflow="ellipsis") + Text(", ".join(rest), style="dim")


def show_left(seconds: float | None) -> str:
    """Return the time left in words: `about 20 s left`."""
    return "time left not known yet" if seconds is None else f"about {show_seconds(seconds)} left"


def show_seconds(seconds: float | None) -> str:
    """Return a duration in words: `4.2 s`, `3 min 20 s`, `5 h 10 min`."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _alarm(count: int) -> Text:
    return Text(str(count), style="red" if count else "")


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
