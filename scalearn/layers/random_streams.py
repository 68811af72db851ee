"""Random streams per job, so that a job's dropout does not depend on the jobs it is packed with.

Each batch of a job has one seed, and each dropout has a number of its own. The mask depends only on both. So a layer that is computed again
for the backward pass (gradient checkpointing) draws the same mask again, and a batch that is computed in parts, for want of memory, gets
the masks of the whole batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

OMEGA_DROPOUT = 1_000_000
HEAD_DROPOUT = 2_000_000
BRANCH_DROPOUT = 3_000_000
"""First numbers of the dropouts outside the backbone. Those of the backbone are counted from 0."""


@dataclass(frozen=True)
class RowBlock:
    """The rows of one job within a packed batch."""

    rows: int
    length: int
    """The job's own padded length. The packed batch may be longer."""
    seed: int
    """The seed of this batch of this job."""
    task: int = 0
    """Index of the rows' task among the job's tasks. It is 0 except for joint jobs."""
    first: int = 0
    """The place of the first row in the job's batch, if the batch is computed in parts."""
    batch_rows: int | None = None
    """Rows of the job's batch. None: the batch has no other rows than these."""

    def dropped_entries(self, shape: Sequence[int], rate: float, device: torch.device, number: int) -> Tensor:
        """Return the part of the batch's mask that belongs to these rows. It has the given `shape`, whose first dimension is the rows."""
        whole = dropped_entries((self.batch_rows or shape[0], *shape[1:]), rate, device, self.seed, number)
        return whole[self.first : self.first + shape[0]]

    def dropout(self, values: Tensor, rate: float, number: int) -> Tensor:
        """Zero entries of `values`, `[rows, ...]`, and rescale the rest."""
        return _without(values, self.dropped_entries(values.shape, rate, values.device, number), rate)


@dataclass
class RowStreams:
    """The rows of each job in the batch that is in the backbone. If empty, the global random stream is used."""

    blocks: Sequence[RowBlock] = field(default_factory=tuple)

    @property
    def rows(self) -> int:
        """Number of rows of the whole batch."""
        return sum(block.rows for block in self.blocks)


def dropped_entries(shape: Sequence[int], rate: float, device: torch.device, seed: int | None, number: int) -> Tensor:
    """Return a boolean mask that is true with probability `rate`.

    Args:
        shape: Shape of the mask.
        rate: Dropout probability. On a CPU it is rounded to a multiple of 1 / 65,536.
        device: Device of the mask.
        seed: Seed of the job's pass. None: the global random stream.
        number: Number of the dropout. Each dropout draws its own mask.
    """
    generator = None if seed is None else torch.Generator(device=device).manual_seed(_mixed(seed, number))
    if device.type != "cpu":
        return torch.empty(tuple(shape), dtype=torch.bool, device=device).bernoulli_(rate, generator=generator)
    # Four 16-bit draws from one 64-bit draw take a quarter of the time of `bernoulli_`, which takes a tenth of a step on a CPU.
    entries = math.prod(shape)
    words = torch.empty(-(-entries // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return (words.view(torch.int16)[:entries] < round(rate * 65536) - 32768).view(tuple(shape))


def dropout(values: Tensor, rate: float, seed: int | None, number: int) -> Tensor:
    """Zero entries of `values` and rescale the rest. See `dropped_entries` for the arguments."""
    return _without(values, dropped_entries(values.shape, rate, values.device, seed, number), rate)


def _without(values: Tensor, dropped: Tensor, rate: float) -> Tensor:
    return (values * (1.0 / (1.0 - rate))).masked_fill_(dropped, 0.0)


class RowDropout(nn.Module):
    """Dropout that draws the mask of each job's rows from that job's stream.

    A mask is drawn only for the job's own padded length, or for the first token if there is no other. So it is the mask that the job draws
    when it trains alone.
    """

    def __init__(self, rate: float, streams: RowStreams, number: int) -> None:
        """Use `streams`, which all dropouts of the backbone share."""
        super().__init__()
        self.rate = rate
        self.streams = streams
        self.number = number

    def forward(self, values: Tensor) -> Tensor:
        """Zero entries of `[rows, length, ...]` or `[rows, heads, length, length]` and rescale the rest."""
        if not self.training or self.rate == 0.0:
            return values
        if not self.streams.blocks:
            return functional.dropout(values, self.rate)
        if values.dim() < 3 or values.shape[0] != self.streams.rows:
            # All rows share these values (such as DeBERTa's relative positions), so the pack needs one mask. The first job draws it.
            return dropout(values, self.rate, self.streams.blocks[0].seed, self.number)
        return _without(values, self._mask(values), self.rate)

    def _mask(self, values: Tensor) -> Tensor:
        blocks = self.streams.blocks
        sequence_dims = (2, 3) if values.dim() == 4 else (1,)
        if len(blocks) == 1 and blocks[0].length == values.shape[sequence_dims[0]]:
            return blocks[0].dropped_entries(values.shape, self.rate, values.device, self.number)
        mask = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
        for part, block in zip(mask.split([block.rows for block in blocks]), blocks, strict=True):
            own = part
            for dim in sequence_dims:
                own = own.narrow(dim, 0, min(block.length, own.shape[dim]))
            own.copy_(block.dropped_entries(own.shape, self.rate, values.device, self.number))
        return mask


def give_each_job_its_stream(model: nn.Module, streams: RowStreams, first_number: int = 0) -> None:
    """Replace every `nn.Dropout` in `model` by a `RowDropout` on `streams`, with numbers counted from `first_number`."""
    numbers = count(first_number)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                replacement = RowDropout(child.p, streams, next(numbers))
                replacement.train(child.training)
                setattr(module, name, replacement)


def _mixed(seed: int, number: int) -> int:
    """Return a 63-bit seed from two numbers (the finaliser of splitmix64), so that neighbouring numbers give unrelated seeds."""
    value = (seed + (number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) >> 1
