"""What one job adds to the backbone, and how the branches of a pack share one pass through it."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scalearn.config import JobConfig
from scalearn.layers.random_streams import RowBlock, RowStreams


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one optimiser setting holds for."""

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float


class Branch(nn.Module):
    """The trainable and frozen modules that one job puts after the feed-forward block of every layer.

    A site is where in the backbone an adapter sits, counted from the first layer.
    """

    drawn_in_pass: ClassVar[tuple[str, ...]] = ()
    """Attributes that `begin_pass` sets. They belong to one pass: a copy or a file of the branch starts without them (None)."""

    def __init__(self) -> None:
        """Begin on the global random stream; a pack gives every branch the stream of its job."""
        super().__init__()
        self.streams = RowStreams()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for `copy` and `pickle`: tensors in the midst of a graph could not be copied."""
        return {**self.__dict__, **dict.fromkeys(self.drawn_in_pass)}

    @abstractmethod
    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """Return what this job adds to the residual at a site.

        Args:
            site: Index of the site.
            hidden_states: `[rows, length, hidden]`, the layer-normalised output of the feed-forward block. At the last site it is
                `[rows, 1, hidden]`, the first token alone, since a head reads no other (see `scalearn.layers.first_token`).

        Returns:
            As `hidden_states`.
        """

    def begin_pass(self) -> None:
        """Prepare a pass through the backbone, e.g. draw what all sites share; it is called once before each."""

    def end_pass(self) -> None:
        """Forgets the pass: without one, `added` draws for each call."""
        self.streams.blocks = ()
        for name in self.drawn_in_pass:
            setattr(self, name, None)

    @property
    def task(self) -> int:
        """Index into the job's tasks of the rows that are now in the backbone; a batch holds one task."""
        return self.streams.blocks[0].task if self.streams.blocks else 0

    @property
    def own_model(self) -> Any | None:
        """The adapters library's model that runs this job's passes instead of the shared backbone, where there is one.

        Such a job trains alone. What it changes is its own copy, so a warm worker's backbone stays as it was loaded.
        """
        return None

    def pack_key(self) -> object:
        """Branches next to each other with equal keys may be run by `added_packed` of their class."""
        return id(self)

    @classmethod
    def added_packed(cls, branches: Sequence["Branch"], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute `added` of several branches with equal keys: rows `rows[k]` of `hidden_states` belong to `branches[k]`."""
        parts = hidden_states.split(list(rows))
        return torch.cat([branch.added(site, part) for branch, part in zip(branches, parts, strict=True)])

    def penalty(self) -> Tensor | None:
        """Return what is added to the job's training loss: a scalar of its own graph. None: nothing."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return what the job's result is to say about this branch beyond scores and counts: JSON values."""
        return {}

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the branch's trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parameter_groups(self, config: JobConfig) -> list[ParameterGroup]:
        """How the job's optimiser treats the learned parameters."""
        optimisation = config.optimisation
        return [ParameterGroup(tuple(self.learned().values()), optimisation.learning_rate, optimisation.weight_decay)]


class BranchPack:
    """The branches of all jobs in the pass that now runs, in the order of their rows in the batch."""

    def __init__(self) -> None:
        """Start empty: `load` fills it before every pass."""
        self._groups: list[tuple[list[Branch], list[int]]] = []

    def end_pass(self) -> None:
        """Says that nothing of the pass will be computed any more, nor again."""
        for branches, _ in self._groups:
            for branch in branches:
                branch.end_pass()

    def load(self, branches: Sequence[Branch], blocks: Sequence[RowBlock]) -> None:
        """Says whose rows the next batch holds and lets every branch draw what its sites share."""
        for branch, block in zip(branches, blocks, strict=True):
            branch.streams.blocks = (block,)
            branch.begin_pass()
        self._groups = []
        rows = [block.rows for block in blocks]
        for _, members in groupby(zip(branches, rows, strict=True), key=lambda member: (type(member[0]), member[0].pack_key())):
            group = list(members)
            self._groups.append(([branch for branch, _ in group], [count for _, count in group]))

    def clear(self) -> None:
        """Forgets the branches, so that nothing of a finished job stays alive in a warm worker."""
        self._groups = []

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """Return what the branches add at a site, each to its own rows: `[rows, length, hidden]`."""
        parts = hidden_states.split([sum(rows) for _, rows in self._groups]) if len(self._groups) > 1 else (hidden_states,)
        outputs = []
        for (branches, rows), part in zip(self._groups, parts, strict=True):
            if len(branches) == 1:
                outputs.append(branches[0].added(site, part))
            else:
                outputs.append(type(branches[0]).added_packed(branches, site, part, rows))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
