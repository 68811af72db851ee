"""Sources of unequal quality: which of a sweep's sources are trained on fewer rows, or on rows with shuffled labels.

The qualities are the whole task and those that the file lists. A deal gives them in turn to the sources in a random order, and the next
deal moves each source on by one quality. So over as many deals as there are qualities, each source has each quality once, and what a source
is does not mix with how good it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.definition.names import short
from orchestrator.definition.schema import Unequal


class Quality(NamedTuple):
    """What a source adapter is trained on. The fields are those of `DataConfig`."""

    rows_kept: float | None = None
    labels_shuffled: float | None = None


BEST = Quality()


def qualities(unequal: Unequal) -> tuple[Quality, ...]:
    """Return the whole task first, then the others in the order of the file. A share of 1 of the rows is the whole task."""
    fewer = (Quality(rows_kept=share) for share in unequal.rows if share < 1)
    return (BEST, *fewer, *(Quality(labels_shuffled=share) for share in unequal.shuffled))


def count_deals(unequal: Unequal) -> int:
    """Return how many deals `deals` makes."""
    levels = len(qualities(unequal))
    return min(unequal.draws or levels, levels)


def deals(unequal: Unequal, sources: Sequence[str]) -> tuple[Mapping[str, Quality], ...]:
    """Return the quality of each source in each deal.

    Args:
        unequal: The qualities.
        sources: Full keys of the tasks whose adapters are trained.
    """
    levels = qualities(unequal)
    order = sorted(sources, key=lambda name: hashlib.sha256(f"{unequal.seed}/{short(name)}".encode()).digest())
    return tuple({name: levels[(place + deal) % len(levels)] for place, name in enumerate(order)} for deal in range(count_deals(unequal)))
