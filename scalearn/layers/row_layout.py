"""Where the rows of a pass lie when their tokens stand one behind the other, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

GRAIN = 32
"""The tokens of a pass are filled up to a multiple of this number. CPUs prepare a product anew for every shape that they have not seen,
which takes as long as the product itself. So shapes must come again."""

_LENGTHS = 8
"""The length of a group of rows is a multiple of this number, and its number of rows is a power of two, for the same reason."""

_GROUP_COST = 2500
"""What one more group of rows costs in attention, in entries of one head's scores: the time to call the kernels once more on a CPU."""

_LOWEST = -1e30
"""A score of which the softmax leaves nothing, in every precision."""


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of like length, whose attention is computed in one product."""

    first: int
    """The first row."""
    rows: int
    start: int
    """The first token of the first row."""
    tokens: int
    """Tokens of all rows."""
    length: int
    """Tokens of the longest row, rounded up to a multiple of 8."""
    places: Tensor | None
    """The token at each place of the padded rows, `[rows * length]`. None: all rows have this length, so nothing is padded."""
    padding: Tensor | None
    """What is added to the scores of each place: 0, or for padding so little that nothing is left of it, `[rows, 1, 1, length]`."""
    kept: Tensor | None
    """The places that are not padding, `[tokens]`."""

    def gather(self, tokens: Tensor) -> Tensor:
        """Return the rows of this group from the tokens of the pass: `[all tokens, ...]` to `[rows * length, ...]`."""
        return tokens[self.start : self.start + self.tokens] if self.places is None else tokens.index_select(0, self.places)

    def scatter(self, padded: Tensor, tokens: Tensor) -> None:
        """Write the rows of this group, `[rows * length, ...]`, to their places in the tokens of the pass, `[all tokens, ...]`."""
        tokens[self.start : self.start + self.tokens] = padded if self.kept is None else padded.index_select(0, self.kept)

    def spread(self, tokens: Tensor) -> Tensor:
        """Do as `gather` does, with zeros in place of padding, as a gradient has them."""
        own = tokens[self.start : self.start + self.tokens]
        if self.kept is None:
            return own
        return own.new_zeros((self.rows * self.length, *own.shape[1:])).index_copy_(0, self.kept, own)


@dataclass(frozen=True)
class RowLayout:
    """The rows of one pass, whose tokens lie one behind the other."""

    lengths: tuple[int, ...]
    """Tokens of each row."""
    first_tokens: Tensor
    """The place of each row's first token, `[rows]`."""
    positions: Tensor
    """The position of each token, as the backbone counts it: `[1, tokens]`."""
    groups: tuple[RowGroup, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], positions: Tensor) -> Self:
        """Lay out rows of the given lengths. See the attributes. There may be more positions than tokens, which fill up the pass."""
        starts, device = [0, *accumulate(lengths)], positions.device
        groups = [_group(lengths[first:end], first, starts[first], device) for first, end in grouped(lengths)]
        return cls(tuple(lengths), torch.tensor(starts[:-1], device=device), positions, tuple(groups))

    def first_of(self, tokens: Tensor) -> Tensor:
        """Return each row's first token: `[1, tokens, ...]` to `[1, rows, ...]`. What holds first tokens alone stays as it is."""
        return tokens if tokens.shape[1] == len(self.lengths) else tokens.index_select(1, self.first_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, and what fills them up to a multiple of 32."""
        return self.positions.shape[1]

    @property
    def real_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self.lengths)


def grouped(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Divide rows into groups of neighbours so that attention takes the least time.

    A group of n rows whose longest has L tokens costs n L^2 entries of scores per head, and a constant. The best division is found by
    dynamic programming. It depends on the lengths alone.

    Args:
        lengths: Tokens of each row. Sorted rows give the best groups.

    Returns:
        First row and end of every group, whose number of rows is a power of two.
    """
    best, sizes = [0], [0]
    for end in range(1, len(lengths) + 1):
        choices, size, longest, first = [], 1, 0, end
        while size <= end:
            longest = max(longest, *lengths[end - size : first])
            first = end - size
            choices.append((best[first] + _GROUP_COST + size * _rounded(longest) ** 2, size))
            size *= 2
        cheapest, size = min(choices)
        best.append(cheapest)
        sizes.append(size)
    groups, end = [], len(lengths)
    while end:
        groups.append((end - sizes[end], end))
        end -= sizes[end]
    return groups[::-1]


def _rounded(length: int) -> int:
    return -(-length // _LENGTHS) * _LENGTHS


def _group(lengths: Sequence[int], first: int, start: int, device: torch.device) -> RowGroup:
    rows, longest, tokens = len(lengths), _rounded(max(lengths)), sum(lengths)
    if rows * longest == tokens:
        return RowGroup(first, rows, start, tokens, longest, None, None, None)
    own = torch.tensor(lengths, device=device).unsqueeze(1)
    offsets = torch.arange(longest, device=device)
    padding = offsets >= own
    # Padding repeats the row's first token: a finite value, of which the mask leaves nothing.
    places = start + (own.cumsum(0) - own) + torch.where(padding, 0, offsets)
    kept = (~padding).flatten().nonzero().flatten()
    return RowGroup(first, rows, start, tokens, longest, places.flatten(), (_LOWEST * padding).view(rows, 1, 1, longest), kept)
