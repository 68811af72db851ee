"""Which ready jobs run next, and which run together: the policy that the live searcher and a simulator share. Pure Python."""

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush

from orchestrator.graph import Graph, Job
from orchestrator.identity import canonical_json
from scalearn.methods.registry import METHODS


@dataclass(frozen=True)
class Candidate:
    """A job that could start now."""

    node: str
    blocks: int
    """How many jobs wait for it, directly or not."""
    work: float
    """Expected duration in any unit that is the same for all jobs."""
    kind: Hashable
    """Only candidates of one kind may share a pack."""


class PackQueue:
    """Ready jobs in the order in which they should start: the most-blocking first, then the longest, then the first to come.

    Adding and taking cost logarithmic time, so that one object serves a sweep of a hundred thousand jobs.
    """

    def __init__(self, pack_size: int = 1) -> None:
        """Start empty.

        Args:
            pack_size: The most jobs of a pack.
        """
        self._pack_size = pack_size
        self._order: list[tuple[int, float, int, Candidate]] = []
        self._by_kind: dict[Hashable, list[tuple[int, float, int, Candidate]]] = {}
        self._waiting: set[str] = set()
        self._added = 0

    def __len__(self) -> int:
        """Return how many jobs wait to be taken."""
        return len(self._waiting)

    def __contains__(self, node: object) -> bool:
        """Tell whether a node waits to be taken."""
        return node in self._waiting

    def add(self, candidate: Candidate) -> None:
        """Add a job that has become ready; one that waits already is left as it is."""
        if candidate.node in self._waiting:
            return
        self._added += 1
        entry = (-candidate.blocks, -candidate.work, self._added, candidate)
        self._waiting.add(candidate.node)
        heappush(self._order, entry)
        if self._pack_size > 1:
            heappush(self._by_kind.setdefault(candidate.kind, []), entry)

    def discard(self, node: str) -> None:
        """Forget a job that can no longer start."""
        self._waiting.discard(node)

    def take(self) -> tuple[str, ...]:
        """Remove and return the next pack; empty when nothing waits."""
        head = self._pop(self._order)
        if head is None:
            return ()
        pack = [head.node]
        mates = self._by_kind.get(head.kind, [])
        while len(pack) < self._pack_size and (mate := self._pop(mates)) is not None:
            pack.append(mate.node)
        return tuple(pack)

    def _pop(self, heap: list[tuple[int, float, int, Candidate]]) -> Candidate | None:
        """Remove the first entry that still waits. Entries taken through the other heap are skipped here."""
        while heap:
            candidate = heappop(heap)[-1]
            if candidate.node in self._waiting:
                self._waiting.discard(candidate.node)
                return candidate
        return None


def candidate(graph: Graph, job: Job) -> Candidate:
    """Describe a job of a graph to the queue."""
    return Candidate(job.node, graph.descendants(job.node), expected_work(job), kind(job))


def kind(job: Job) -> Hashable:
    """Return what jobs must have in common to train as one: the backbone, the rows' origin, the sources, and the shape of a step.

    Method, settings, learning rate, seed and few-shot subset may differ. A job that changes the backbone itself trains alone.
    """
    config = job.config
    method = METHODS.get(config.method)
    if method is None or method.owns_backbone:
        return job.node
    optimisation = config.optimisation
    shape = (optimisation.batch_size, optimisation.epochs, optimisation.max_steps, optimisation.evaluate_every, optimisation.precision)
    rows = tuple((data.task, data.origin, data.template, data.max_length) for data in config.data)
    parents = tuple(parent.node for parent in job.parents)
    return canonical_json((config.stage, config.backbone_origin, rows, shape, parents))


def expected_work(job: Job) -> float:
    """Return a job's expected duration in tokens, without measurements: rows x epochs x length, steps where they are capped.

    A task whose number of rows is not known here counts as a large one, since the large ones must start early.
    """
    unknown_rows = 100_000
    optimisation = job.config.optimisation
    total = 0.0
    for data in job.config.data:
        rows = data.few_shot or data.train_rows or unknown_rows
        rows = int(rows * (data.train_share or 1.0))
        seen = rows * optimisation.epochs
        if optimisation.max_steps is not None:
            seen = min(seen, optimisation.max_steps * optimisation.batch_size)
        total += seen * data.max_length
    return total
