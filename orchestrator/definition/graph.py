"""The graph of a sweep's jobs and their states, in pure Python and without a scheduler.

A job holds its parents as values, so a cycle cannot be written.
"""

import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Literal, get_args

from orchestrator.definition.identity import fingerprint, node_name, node_path
from scalearn.config import JobConfig
from scalearn.errors import UserError

State = Literal["pending", "running", "succeeded", "cached", "failed", "blocked"]
STATES: tuple[State, ...] = get_args(State)
DONE: frozenset[State] = frozenset({"succeeded", "cached"})
_CLOSED: frozenset[State] = frozenset({"failed", "blocked"})


@dataclass(frozen=True, eq=False)
class Job:
    """One artifact to make. Two jobs are equal if their nodes are."""

    config: JobConfig
    parents: tuple["Job", ...] = ()
    """Jobs whose artifacts this one reads. A transfer job's sources come first, in the order of `config.sources`, without those in
    `config.external`, which have no job."""
    path: str = field(init=False)
    """Readable place in a store, for example `glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed3`."""
    fingerprint: str = field(init=False)
    """10 hexadecimal digits over everything that changes the result."""
    node: str = field(init=False)
    """`path-fingerprint`: the job's name everywhere."""

    def __post_init__(self) -> None:
        """Derive the names at once: they are read far more often than made, and the parents' names are known here."""
        object.__setattr__(self, "path", node_path(self.config))
        object.__setattr__(self, "fingerprint", fingerprint(self.config, [parent.fingerprint for parent in self.parents]))
        object.__setattr__(self, "node", node_name(self.path, self.fingerprint))

    def __eq__(self, other: object) -> bool:
        """Compare by node."""
        return isinstance(other, Job) and self.node == other.node

    def __hash__(self) -> int:
        """Hash the node."""
        return hash(self.node)

    @property
    def source_name(self) -> str:
        """Short name of the job's task, under which transfer jobs stack the job's adapter."""
        return self.config.task.rpartition("/")[2]

    @property
    def parent_names(self) -> tuple[str, ...]:
        """Names under which training finds the parents' artifacts: the task for a source, the stage for another parent."""
        return tuple(parent.source_name if parent.config.stage == "source" else parent.config.stage for parent in self.parents)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Full keys of the tasks that the job trains on."""
        return tuple(data.task for data in self.config.data)


class Graph:
    """Jobs by node, with parents before children, and the state of each job.

    A pending job is ready when all its parents are done. If a job fails, its pending descendants become blocked. If it is tried again, they
    become pending again. The time of each operation is proportional to the edges that it touches.
    """

    def __init__(self, jobs: Iterable[Job], *, feeding: Iterable[str] = ()) -> None:
        """Build a graph of the given jobs and all jobs that they need.

        Args:
            jobs: Jobs in the order in which they should be listed. Equal jobs count once.
            feeding: Nodes that are known to feed jobs outside this graph, for `stage_of`.
        """
        self._jobs: dict[str, Job] = {}
        for job in jobs:
            self._add(job)
        self._index = {node: index for index, node in enumerate(self._jobs)}
        self._children: dict[str, list[str]] = {}
        for node, job in self._jobs.items():
            for parent in dict.fromkeys(parent.node for parent in job.parents):
                self._children.setdefault(parent, []).append(node)
        self._feeding = frozenset(feeding) | self._children.keys()
        self._states: dict[str, State] = dict.fromkeys(self._jobs, "pending")
        self._counts: Counter[State] = Counter({"pending": len(self._jobs)})
        self._waiting = {node: len(set(job.parents)) for node, job in self._jobs.items()}
        self._cause: dict[str, str] = {}
        self._descendants: dict[str, int] = {}
        self._ready = sorted(self._rank(node) for node, count in self._waiting.items() if count == 0)
        self._order = list(self._jobs)

    def _add(self, job: Job) -> None:
        """Add a job after its parents, without recursion, since chains may be long."""
        stack = [job]
        while stack:
            current = stack[-1]
            missing = [parent for parent in current.parents if parent.node not in self._jobs] if current.node not in self._jobs else []
            if missing:
                stack.extend(reversed(missing))
            else:
                self._jobs.setdefault(current.node, current)
                stack.pop()

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self._jobs)

    def __contains__(self, node: object) -> bool:
        """Tell whether a node is in the graph."""
        return node in self._jobs

    def __iter__(self) -> Iterator[Job]:
        """Iterate over the jobs, parents before children."""
        return iter(self._jobs.values())

    def nodes(self) -> tuple[str, ...]:
        """Return all nodes, parents before children."""
        return tuple(self._jobs)

    def job(self, node: str) -> Job:
        """Return a node's job. Raises KeyError if there is none."""
        return self._jobs[node]

    def parents(self, node: str) -> tuple[str, ...]:
        """Return the nodes whose artifacts a node reads, in order."""
        return tuple(parent.node for parent in self._jobs[node].parents)

    def children(self, node: str) -> tuple[str, ...]:
        """Return the nodes that read a node's artifact."""
        self._jobs[node]
        return tuple(self._children.get(node, ()))

    def descendants(self, node: str) -> int:
        """Return how many jobs need this one, directly or not."""
        if node not in self._descendants:
            self._descendants[node] = sum(1 for _ in self.below(node))
        return self._descendants[node]

    def below(self, node: str) -> Iterator[str]:
        """Iterate over every descendant of a node, once each."""
        seen: set[str] = set()
        stack = list(self.children(node))
        while stack:
            current = stack.pop()
            if current not in seen:
                seen.add(current)
                yield current
                stack.extend(self._children.get(current, ()))

    def stage_of(self, node: str) -> str:
        """Return the stage under which a job is listed. An adapter that feeds no other job is a baseline: `single`."""
        stage = self._jobs[node].config.stage
        return "single" if stage == "source" and node not in self._feeding else stage

    @property
    def states(self) -> Mapping[str, State]:
        """State of every node, as a live, read-only view."""
        return MappingProxyType(self._states)

    def counts(self) -> dict[State, int]:
        """Return the number of nodes in each state, zeros included."""
        return {state: self._counts[state] for state in STATES}

    def ready(self, limit: int | None = None) -> list[str]:
        """Return the pending nodes whose parents are all done: first those that most jobs wait for, then in listing order.

        Args:
            limit: The most nodes to return.
        """
        return [self._order[index] for _, index in islice(self._ready, limit)]

    def is_ready(self, node: str) -> bool:
        """Tell whether a node is pending and all its parents are done."""
        return self._states[node] == "pending" and self._waiting[node] == 0

    def blocked_by(self, node: str) -> str | None:
        """Return the failed ancestor that blocks a node. None: it is not blocked."""
        self._jobs[node]
        return self._cause.get(node)

    def is_finished(self) -> bool:
        """Tell whether nothing is running and nothing more can start."""
        return not (self._counts["pending"] or self._counts["running"])

    def mark(self, node: str, state: State) -> None:
        """Set a node's state, and update its descendants.

        Any change is allowed except to `blocked`, which follows from failures. For example, a failed job may become pending again, and a
        cached job may turn out to be corrupt. A done job stays done whatever becomes of its parents.

        Raises:
            KeyError: No such node.
            ValueError: The state cannot be set, or it is `running` before the parents are done.
        """
        old = self._states[node]
        if state not in STATES or state == "blocked":
            raise ValueError(f"{state!r} is not a state that can be set")
        if state == "running" and (self._waiting[node] or old in DONE):
            raise ValueError(f"{node} cannot run: it is {old} and waits for {self._waiting[node]} parents")
        if state == "pending" and (cause := self._closed_parent(node)) is not None:
            self._set(node, "blocked")
            self._cause[node] = cause
        else:
            self._cause.pop(node, None)
            self._set(node, state)
        self._follow(node, old)

    def _follow(self, node: str, old: State) -> None:
        """Update the descendants of a node that has changed."""
        new = self._states[node]
        if (old in DONE) != (new in DONE):
            for child in self._children.get(node, ()):
                before = self._waiting[child]
                self._waiting[child] = after = before + (1 if old in DONE else -1)
                if not (before and after):  # mostly, other parents are not done yet
                    self._refresh(child)
        if (old in _CLOSED) != (new in _CLOSED) or new in _CLOSED:
            self._spread(node)

    def _spread(self, node: str) -> None:
        """Block or release the undone descendants of a node that can no longer, or can again, succeed."""
        stack = list(self._children.get(node, ()))
        while stack:
            child = stack.pop()
            state = self._states[child]
            if state not in ("pending", "blocked"):
                continue
            cause = self._closed_parent(child)
            if cause == self._cause.get(child):
                continue
            self._set(child, "pending" if cause is None else "blocked")
            if cause is None:
                del self._cause[child]
            else:
                self._cause[child] = cause
            self._refresh(child)
            stack.extend(self._children.get(child, ()))

    def _closed_parent(self, node: str) -> str | None:
        """Return the failed job behind the first parent that failed or is blocked."""
        for parent in self._jobs[node].parents:
            if self._states[parent.node] == "failed":
                return parent.node
            if self._states[parent.node] == "blocked":
                return self._cause[parent.node]
        return None

    def _set(self, node: str, state: State) -> None:
        self._counts[self._states[node]] -= 1
        self._counts[state] += 1
        self._states[node] = state
        self._refresh(node)

    def _refresh(self, node: str) -> None:
        """Update the sorted list of ready nodes for one node."""
        rank = self._rank(node)
        position = bisect_left(self._ready, rank)
        listed = position < len(self._ready) and self._ready[position] == rank
        wanted = self._states[node] == "pending" and self._waiting[node] == 0
        if wanted and not listed:
            insort(self._ready, rank)
        elif listed and not wanted:
            del self._ready[position]

    def _rank(self, node: str) -> tuple[int, int]:
        return -self.descendants(node), self._index[node]

    def extend(self, jobs: Iterable[Job]) -> None:
        """Add jobs, and all jobs that they need, as pending. All others keep their states and come first.

        All of it happens in one step, for other threads that read the graph meanwhile.
        """
        grown = Graph([*self, *jobs], feeding=self._feeding)
        for node, state in self._states.items():  # parents before children
            if state not in ("pending", "blocked"):
                grown.mark(node, state)
        vars(self).update(vars(grown))

    def restrict(self, pattern: str) -> "Graph":
        """Return the graph of the jobs whose node matches a regular expression, and of the jobs that they need. All are pending.

        Args:
            pattern: Regular expression that is searched for anywhere in the node.

        Raises:
            UserError: The pattern is no regular expression, or it matches no node.
        """
        expression = node_pattern(pattern)
        kept: Sequence[Job] = [job for node, job in self._jobs.items() if expression.search(node)]
        if not kept:
            example = f"; a node looks like {next(iter(self._jobs))}" if self._jobs else ""
            raise UserError(f"--only {_cut(pattern)} matches none of the {len(self)} jobs{example}.")
        return Graph(kept, feeding=self._feeding)

    def keep(self, nodes: Collection[str]) -> "Graph":
        """Return the graph of some nodes and of the jobs that they need. All are pending."""
        return Graph([job for node, job in self._jobs.items() if node in nodes], feeding=self._feeding)


def node_pattern(text: str) -> re.Pattern[str]:
    """Return the regular expression of `--only`, which picks nodes.

    Raises:
        UserError: The text is no regular expression.
    """
    try:
        return re.compile(text)
    except (re.error, OverflowError) as error:
        raise UserError(f"--only {_cut(text)} is not a regular expression: {error}.") from None
    except RecursionError:
        raise UserError(f"--only {_cut(text)} is too deeply nested for a regular expression: write a plainer one.") from None


def _cut(pattern: str) -> str:
    return f"'{pattern}'" if len(pattern) <= 100 else f"'{pattern[:97]}...'"
