"""One random stream per job, so that a job's dropout does not depend on the jobs it is packed with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class RowBlock:
    """The rows of one job within a packed batch."""

    rows: int
    length: int
    """The job's own padded length; the packed batch may be longer."""
    generator: torch.Generator
    """On the device of the batch."""


@dataclass
class RowStreams:
    """Which rows of the batch that is now in the backbone belong to which job. Empty: the global random stream is used."""

    blocks: Sequence[RowBlock] = field(default_factory=tuple)

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return sum(block.rows for block in self.blocks)

    @property
    def generator(self) -> torch.Generator | None:
        """The stream of the first job. None: the global stream."""
        return self.blocks[0].generator if self.blocks else None


class RowDropout(nn.Module):
    """Dropout that draws the mask of each job's rows from that job's stream.

    A mask is drawn for the job's own padded length only, so the stream advances as if the job trained alone.
    """

    def __init__(self, rate: float, streams: RowStreams) -> None:
        """Shares `streams` with all other dropouts of the backbone."""
        super().__init__()
        self.rate = rate
        self.streams = streams

    def forward(self, values: Tensor) -> Tensor:
        """Zeroes entries of `[rows, length, ...]` or `[rows, heads, length, length]` and rescales the rest."""
        if not self.training or self.rate == 0.0:
            return values
        if values.dim() < 3 or values.shape[0] != self.streams.rows:
            return functional.dropout(values, self.rate)
        return values * self._mask(values) * (1.0 / (1.0 - self.rate))

    def _mask(self, values: Tensor) -> Tensor:
        blocks = self.streams.blocks
        sequence_dims = (2, 3) if values.dim() == 4 else (1,)
        if len(blocks) == 1 and blocks[0].length == values.shape[sequence_dims[0]]:
            return kept_entries(values.shape, self.rate, values.device, blocks[0].generator)
        mask = torch.ones(values.shape, dtype=torch.bool, device=values.device)
        for part, block in zip(mask.split([block.rows for block in blocks]), blocks, strict=True):
            for dim in sequence_dims:
                part = part.narrow(dim, 0, block.length)
            part.copy_(kept_entries(part.shape, self.rate, values.device, block.generator))
        return mask


def kept_entries(shape: Sequence[int], rate: float, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """A boolean mask that is true with probability `1 - rate`."""
    return torch.empty(tuple(shape), dtype=torch.bool, device=device).bernoulli_(1.0 - rate, generator=generator)


def give_each_job_its_stream(model: nn.Module, streams: RowStreams) -> None:
    """Replaces every `nn.Dropout` in `model` by a `RowDropout` on `streams`."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                replacement = RowDropout(child.p, streams)
                replacement.train(child.training)
                setattr(module, name, replacement)
