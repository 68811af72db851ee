"""The trials of a search: which there are so far, in rounds, and the jobs that they are.

The first round is drawn at random, as all trials of `by: random` are. Later rounds of `by: optuna` are proposed during a run, and kept in
the store. So an expansion needs to be told them: `Known`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.definition.graph import Job
from orchestrator.definition.ranges import Point, Range, draw, sound_points
from orchestrator.definition.schema import Search
from scalearn.identity import canonical_json

Known = Mapping[str, Sequence[Point]]
"""The points that were proposed so far, by the key of their group."""

NOTHING_KNOWN: Known = MappingProxyType({})


@dataclass(frozen=True)
class Trial:
    """One point of a search, and its jobs: one per seed."""

    point: Point
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Group:
    """A search of one method on one target. Its trials depend on nothing outside the group."""

    key: str
    """16 hexadecimal digits that stand for all that decides the trials before any has ended."""
    search: Search
    space: Mapping[str, Range]
    trials: tuple[Trial, ...]
    """Those that are known, in order."""


def group_key(search: Search, space: Mapping[str, Range], objectives: Sequence[str], likeness: Sequence[str]) -> str:
    """Return the key of a group. More trials continue the same group.

    Args:
        search: The sweep's block.
        space: The ranges.
        objectives: The sweep's objectives.
        likeness: Fingerprints of the group's jobs at one fixed point.
    """
    ranges = {name: [span.low, span.high, span.log, span.whole] for name, span in space.items()}
    text = canonical_json([search.by, search.seed, search.round, list(objectives), ranges, list(likeness)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def points_of(search: Search, space: Mapping[str, Range], known: Sequence[Point], *, ahead: bool = False) -> tuple[Point, ...]:
    """Return the points of a group that there are so far.

    Args:
        search: The sweep's block.
        space: The ranges.
        known: Points that were proposed before, those of the first round included. Not used for random trials.
        ahead: Whether random points stand in for those that are still to be proposed, so that all trials can be counted.
    """
    kept = sound_points(space, known) if search.by == "optuna" else ()
    first = search.trials if search.by == "random" or ahead else min(search.round, search.trials)
    drawn = tuple(draw(space, search.seed, number) for number in range(len(kept), first))
    return (*kept, *drawn)[: search.trials]


def rounds(search: Search, points: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Iterate over the rounds of a group. Random trials are all in one."""
    size = search.trials if search.by == "random" else search.round
    for start in range(0, len(points), size):
        yield tuple(points[start : start + size])
