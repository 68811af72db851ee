"""What one job adds to the backbone, and how the branches of a pack share one pass."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scalearn.config import JobConfig
from scalearn.layers.random_streams import RowBlock, RowStreams
from scalearn.layers.row_layout import RowLayout


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same optimiser settings."""

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float


class Branch(nn.Module):
    """The trainable and frozen modules that one job adds at its sites.

    A site is a place in the backbone: after the feed-forward block of every layer, or at a linear module. Sites are counted from the first
    layer.
    """

    drawn_in_pass: ClassVar[tuple[str, ...]] = ()
    """Attributes that `begin_pass` sets. They belong to one pass, so in a copy or a file of the branch they are None."""
    searched: ClassVar[bool] = False
    """Whether numbers of it are found by a search instead of gradients, once in a job (`scalearn.training.weight_search`)."""
    observes: ClassVar[bool] = False
    """Whether `facts` tells of the rows that it saw last. A finished job then evaluates its validation rows once more."""

    def __init__(self, modules: Sequence[str] | None = None) -> None:
        """Begin on the global random stream. A pack gives each branch the stream of its job.

        Args:
            modules: Names of the linear modules that are the sites, below the model's heads. None: the sites are after the feed-forward
                blocks.
        """
        super().__init__()
        self.streams = RowStreams()
        self.sites_by_module = None if modules is None else {name: site for site, name in enumerate(modules)}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for `copy` and `pickle`, without tensors that belong to a graph, which could not be copied."""
        return {**self.__dict__, **dict.fromkeys(self.drawn_in_pass)}

    @abstractmethod
    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """Return what this job adds to the residual at a site.

        Args:
            site: Index of the site.
            hidden_states: The layer-normalised output of the feed-forward block, or the linear module's input: `[1, tokens, hidden]`, the
                rows' tokens one behind the other, or `[rows, length, hidden]` where rows are padded. In the last layer, after the
                attention and at its query, it holds only each row's first token, since a head reads no other (see
                `scalearn.layers.first_token`).

        Returns:
            A tensor of the shape of `hidden_states`, or of the linear module's output.
        """

    def site_at(self, place: int | str) -> int | None:
        """Return the number of this job's site at a place. None: the job adds nothing there.

        Args:
            place: The number of a feed-forward block, or the name of a linear module.
        """
        if self.sites_by_module is None:
            return place if isinstance(place, int) else None
        return self.sites_by_module.get(place) if isinstance(place, str) else None

    def begin_pass(self) -> None:
        """Prepare a pass through the backbone, for example by drawing what all sites share. This is called once before each pass."""

    def end_pass(self) -> None:
        """Forget the pass. Outside a pass, `added` draws anew in each call."""
        self.streams.forget()
        for name in self.drawn_in_pass:
            setattr(self, name, None)

    @property
    def task(self) -> int:
        """The index, among the job's tasks, of the task whose rows are in the backbone. A batch holds one task."""
        return self.streams.blocks[0].task if self.streams.blocks else 0

    @property
    def own_model(self) -> Any | None:
        """The adapters library's model that runs this job's passes in place of the shared backbone, if there is one.

        Such a job trains alone. It changes only its own copy, so a warm worker's backbone stays as it was loaded.
        """
        return None

    def pack_key(self) -> object:
        """Return a key. Neighbouring branches with equal keys may run together in their class's `added_packed`."""
        return id(self)

    @classmethod
    def added_packed(cls, branches: Sequence["Branch"], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute `added` for several branches with equal keys. The rows `rows[k]` of `hidden_states` belong to `branches[k]`."""
        parts = hidden_states.split(list(rows))
        return torch.cat([branch.added(site, part) for branch, part in zip(branches, parts, strict=True)])

    def penalty(self) -> Tensor | None:
        """Return a term that is added to the job's training loss, a scalar with its own graph. None: there is none."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return what the job's result says about this branch besides scores and counts, as JSON values."""
        return {}

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the branch's trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parameter_groups(self, config: JobConfig) -> list[ParameterGroup]:
        """Return how the job's optimiser treats the learned parameters."""
        optimisation = config.optimisation
        return [ParameterGroup(tuple(self.learned().values()), optimisation.learning_rate, optimisation.weight_decay)]


class BranchPack:
    """The branches of all jobs in the running pass, in the order of their rows in the batch."""

    def __init__(self) -> None:
        """Begin without branches. `load` sets them before every pass."""
        self._groups: list[tuple[list[Branch], list[int]]] = []

    def end_pass(self) -> None:
        """Declare that nothing of the pass will be computed, or computed again."""
        for branches, _ in self._groups:
            for branch in branches:
                branch.end_pass()

    def load(self, branches: Sequence[Branch], blocks: Sequence[RowBlock], layout: RowLayout | None = None) -> None:
        """Set whose rows the next batch holds, and let every branch draw what its sites share.

        Args:
            branches: One per job.
            blocks: The rows of each job.
            layout: The rows of the only job, if they are not padded.
        """
        for branch, block in zip(branches, blocks, strict=True):
            branch.streams.blocks, branch.streams.layout = (block,), layout
            branch.begin_pass()
        self._groups = []
        rows = [block.rows for block in blocks]
        for _, members in groupby(zip(branches, rows, strict=True), key=lambda member: (type(member[0]), member[0].pack_key())):
            group = list(members)
            self._groups.append(([branch for branch, _ in group], [count for _, count in group]))

    def clear(self) -> None:
        """Forget the branches, so that a warm worker keeps nothing of a finished job in memory."""
        self._groups = []

    def adds_at(self, place: int | str) -> bool:
        """Tell whether any job adds at a place (see `Branch.site_at`)."""
        return any(branches[0].site_at(place) is not None for branches, _ in self._groups)

    def add(self, place: int | str, hidden_states: Tensor, onto: Tensor) -> Tensor:
        """Add to each job's rows what its branch adds at a place. Rows of a job without a site there stay as they are.

        Args:
            place: The number of a feed-forward block, or the name of a linear module.
            hidden_states: What the branches compute from, `[rows, length, hidden]` or, for one job, `[1, tokens, hidden]`.
            onto: What is added to, with the same rows and tokens.
        """
        counts = [sum(rows) for _, rows in self._groups]
        alone = len(counts) == 1
        given, bases = ((hidden_states,), (onto,)) if alone else (hidden_states.split(counts), onto.split(counts))
        outputs = []
        for (branches, rows), part, base in zip(self._groups, given, bases, strict=True):
            site = branches[0].site_at(place)
            if site is None:
                outputs.append(base)
            elif len(branches) == 1:
                outputs.append(branches[0].added(site, part) + base)
            else:
                outputs.append(type(branches[0]).added_packed(branches, site, part, rows) + base)
        return outputs[0] if alone else torch.cat(outputs)
