"""Several lists of sources from a few words: random subsets, and all lists that lack some.

A subset depends only on the names of the sources, the seed, the number of its draw and, unless subsets are nested, its size. So a target
that is added, or another version of Python, changes no subset, and finished jobs are found again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from math import comb

from orchestrator.definition.names import short
from orchestrator.definition.schema import SourceSets, Subsets
from orchestrator.definition.unequal import count_deals
from scalearn.errors import UserError

_TRIES = 100
"""Orders that are tried for a nested draw that shares no subset with those before."""


@dataclass(frozen=True)
class Pool:
    """The sources of one target that subsets are drawn from."""

    target: str
    sources: tuple[str, ...]
    """Those that a subset may have, in the order of stacking."""
    always: frozenset[str]
    """Those that every subset has."""

    @property
    def free(self) -> tuple[str, ...]:
        """Sources that are drawn."""
        return tuple(name for name in self.sources if name not in self.always)


def pool_of(target: str, sources: Sequence[str], always: Sequence[str], never: Sequence[str]) -> Pool:
    """Return what the subsets of a target are drawn from.

    Args:
        target: Full key of the target.
        sources: The sweep's sources. Those of `always` that are not among them come first.
        always: Sources of every subset.
        never: Sources of no subset.

    Raises:
        UserError: A source is named in both.
    """
    both = next((name for name in always if name in never), None)
    if both is not None:
        raise UserError(f"'always' and 'never' both hold {short(both)} for target {short(target)}: keep it in one.")
    added = dict.fromkeys(name for name in always if name not in sources)
    return Pool(target, tuple(name for name in (*added, *sources) if name not in never), frozenset(always))


def count_sets(sets: SourceSets, pool: Pool) -> int:
    """Return how many lists `lists` gives at most, without making them.

    Raises:
        UserError: A size does not fit the sources, or nothing would be left. The sentence says what would.
    """
    most, least, where = len(pool.sources), len(pool.always), f"target {short(pool.target)} has {len(pool.sources)} sources to choose from"
    if sets.unequal is not None:
        return count_deals(sets.unequal)
    if sets.select is not None:
        if sets.select.top > most:
            raise UserError(f"'top' is {sets.select.top}, but {where}: choose at most {most}.")
        return 1
    if sets.leave_out is not None:
        if sets.leave_out >= most:
            raise UserError(f"'leave_out' is {sets.leave_out}, but {where}: leave out at most {most - 1}.")
        return comb(most, sets.leave_out)
    assert sets.subsets is not None
    for size in sets.subsets.sizes:
        if size > most:
            raise UserError(f"'sizes' holds {size}, but {where}: choose sizes up to {most}.")
        if size < least:
            raise UserError(f"'sizes' holds {size}, but 'always' has {least} sources for target {short(pool.target)}: choose larger sizes.")
    return sum(min(sets.subsets.draws, _possible(pool, size)) for size in sets.subsets.sizes)


def lists(sets: SourceSets, pool: Pool) -> tuple[tuple[str, ...], ...]:
    """Return the lists of sources of one target, each once and in the order of stacking, shorter ones first."""
    if sets.unequal is not None or sets.select is not None:
        return (pool.sources,)
    if sets.subsets is None:
        return tuple(combinations(pool.sources, len(pool.sources) - (sets.leave_out or 0)))
    sizes = sorted(sets.subsets.sizes)
    chains = [sizes] if sets.subsets.nested else [[size] for size in sizes]
    drawn = dict.fromkeys(subset for chain in chains for subset in _draws(sets.subsets, pool, chain))
    return tuple(sorted(drawn, key=len))


def _draws(subsets: Subsets, pool: Pool, sizes: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Iterate over draws. One draw is an order of the free sources; its subsets are the beginnings of the order of the given sizes."""
    possible = {size: _possible(pool, size) for size in sizes}
    if len(sizes) == 1 and subsets.draws >= possible[sizes[0]]:
        yield from (_subset(pool, names) for names in combinations(pool.free, sizes[0] - len(pool.always)))
        return
    # Draws differ at every size that has enough subsets, if that is found soon; in any case at the one of them with the fewest.
    enough = [size for size in sizes if possible[size] >= subsets.draws]
    telling = min(enough, key=possible.__getitem__) if enough else max(sizes, key=possible.__getitem__)
    seen, found, last = set[tuple[str, ...]](), 0, 0
    for draw in count():
        order = _order(pool, f"{subsets.seed}/{draw}/{'nested' if subsets.nested else sizes[0]}")
        parts = {size: _subset(pool, order[: size - len(pool.always)]) for size in sizes}
        if parts[telling] not in seen and (draw - last > _TRIES or not any(parts[size] in seen for size in enough)):
            found, last = found + 1, draw
            seen.update(parts.values())
            yield from parts.values()
        if found == min(subsets.draws, possible[telling]):
            return


def _possible(pool: Pool, size: int) -> int:
    return comb(len(pool.free), size - len(pool.always))


def _order(pool: Pool, draw: str) -> list[str]:
    """Return the free sources in the random order of a draw. Python's own shuffling may differ between its versions."""
    return sorted(pool.free, key=lambda name: hashlib.sha256(f"{draw}/{short(name)}".encode()).digest())


def _subset(pool: Pool, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in pool.sources if name in pool.always or name in names)
