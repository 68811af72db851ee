"""Random streams per job, so that a job's dropout does not depend on the jobs it is packed with.

Each batch of a job has one seed, and each dropout has a number of its own. The mask depends only on both. So a layer that is computed again
for the backward pass (gradient checkpointing) draws the same mask again, and a batch that is computed in parts, for want of memory, gets
the masks of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from scalearn.layers.row_layout import GRAIN, RowLayout

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
    batch_lengths: tuple[int, ...] | None = None
    """Tokens of every row of the job's batch, padding not counted. None: the batch has no other rows than these."""

    def kept_of_rows(self, values: Tensor, rate: float, number: int) -> Tensor:
        """Return the part of the batch's mask for `values`, whose first dimension is these rows. See the function `kept`."""
        rows = values.shape[0] if self.batch_lengths is None else len(self.batch_lengths)
        return self.kept((rows, *values.shape[1:]), values, rate, number)[self.first : self.first + values.shape[0]]

    def kept_of_tokens(self, values: Tensor, rate: float, number: int) -> Tensor:
        """Return the part of the batch's mask for `values`, whose first dimension is the tokens of these rows, and what fills them up."""
        lengths = self.batch_lengths
        if lengths is None:
            return self.kept(values.shape, values, rate, number)
        before = sum(lengths[: self.first])
        return self.kept((sum(lengths) + GRAIN, *values.shape[1:]), values, rate, number)[before : before + values.shape[0]]

    def kept(self, shape: Sequence[int], like: Tensor, rate: float, number: int) -> Tensor:
        """Draw a mask from this batch's stream. See the function `kept`."""
        return kept(shape, like, rate, self.seed, number)

    def dropout(self, values: Tensor, rate: float, number: int) -> Tensor:
        """Zero entries of `values`, `[rows, ...]`, and rescale the rest."""
        return dropped(values, self.kept_of_rows(values, rate, number), rate)


@dataclass
class RowStreams:
    """The rows of each job in the batch that is in the backbone. If empty, the global random stream is used."""

    blocks: Sequence[RowBlock] = field(default_factory=tuple)
    layout: RowLayout | None = None
    """Where the tokens of each row lie, if they lie one behind the other, `[1, tokens, ...]`. None: rows are padded."""

    def forget(self) -> None:
        """Return to the global random stream, and to padded rows."""
        self.blocks, self.layout = (), None

    @property
    def rows(self) -> int:
        """Number of rows of the whole batch."""
        return sum(block.rows for block in self.blocks)


def kept(shape: Sequence[int], like: Tensor, rate: float, seed: int | None, number: int) -> Tensor:
    """Return a mask that is 0 with probability `rate`, and 1 otherwise, in the type of the values that it is for.

    Args:
        shape: Shape of the mask.
        like: The values, or others of their type and device.
        rate: Dropout probability. On a CPU it is rounded to a multiple of 1 / 65,536.
        seed: Seed of the job's pass. None: the global random stream.
        number: Number of the dropout. Each dropout draws its own mask.
    """
    generator = None if seed is None else torch.Generator(device=like.device).manual_seed(_mixed(seed, number))
    mask = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    if like.device.type != "cpu":
        return mask.bernoulli_(1.0 - rate, generator=generator)
    # Four 16-bit draws from one 64-bit draw take a quarter of the time of `bernoulli_`. To compare into the values' own type, and to
    # multiply by it, takes a quarter of the time of a boolean mask.
    words = torch.empty(-(-mask.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return torch.ge(words.view(torch.int16)[: mask.numel()].view(mask.shape), round(rate * 65536) - 32768, out=mask)


def dropout(values: Tensor, rate: float, seed: int | None, number: int) -> Tensor:
    """Zero entries of `values` and rescale the rest. See `kept` for the arguments."""
    return dropped(values, kept(values.shape, values, rate, seed, number), rate)


def dropped(values: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Apply a mask that `kept` drew with `rate`, and rescale what is left."""
    return (values * (1.0 / (1.0 - rate))).mul_(mask)


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

    @property
    def p(self) -> float:
        """The rate by the name that torch's own dropout gives it, for models that read it there (GPT-2)."""
        return self.rate

    def forward(self, values: Tensor) -> Tensor:
        """Zero entries of `[rows, length, ...]`, `[rows, heads, length, length]` or `[1, tokens, ...]` and rescale the rest."""
        if not self.training or self.rate == 0.0:
            return values
        if not self.streams.blocks:
            return functional.dropout(values, self.rate)
        if self.streams.layout is not None:
            return dropped(values, self._mask_of_tokens(values, self.streams.layout), self.rate)
        if values.dim() < 3 or values.shape[0] != self.streams.rows:
            # All rows share these values (such as DeBERTa's relative positions), so the pack needs one mask. The first job draws it.
            return dropout(values, self.rate, self.streams.blocks[0].seed, self.number)
        return dropped(values, self._mask(values), self.rate)

    def _mask_of_tokens(self, values: Tensor, layout: RowLayout) -> Tensor:
        """Draw the mask of rows without padding, of all their tokens or of the first ones, as the last layer has them."""
        block = self.streams.blocks[0]
        draw = block.kept_of_tokens if values.shape[1] == layout.tokens else block.kept_of_rows
        return draw(values[0], self.rate, self.number).unsqueeze(0)

    def _mask(self, values: Tensor) -> Tensor:
        blocks = self.streams.blocks
        sequence_dims = (2, 3) if values.dim() == 4 else (1,)
        if len(blocks) == 1 and blocks[0].length == values.shape[sequence_dims[0]]:
            return blocks[0].kept_of_rows(values, self.rate, self.number)
        mask = torch.ones_like(values)
        for part, block in zip(mask.split([block.rows for block in blocks]), blocks, strict=True):
            own = part
            for dim in sequence_dims:
                own = own.narrow(dim, 0, min(block.length, own.shape[dim]))
            own.copy_(block.kept_of_rows(own, self.rate, self.number))
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
