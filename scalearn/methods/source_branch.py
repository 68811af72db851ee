"""A branch on frozen source adapters, for any way to combine them: ScaLearn, AdapterFusion, methods of other packages."""

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import SourceStack


class SourceBranch(Branch):
    """A branch on frozen source adapters. Jobs with the same sources share the sources' bottleneck activations."""

    def __init__(self, stacks: Sequence[SourceStack], modules: Sequence[str] | None = None) -> None:
        """Refer to the stacks, one per site, without owning them, since they are not part of the job's own state.

        Args:
            stacks: The frozen sources.
            modules: The sites, if the sources are LoRAs (see `Branch`).
        """
        super().__init__(modules)
        self.given = tuple(stacks)
        self._stacks = self.given

    @property
    def stacks(self) -> Sequence[SourceStack]:
        """The frozen sources, one stack per site, moved or converted with the branch. `given` keeps the stacks as they were before."""
        return self._stacks

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the stacks together with the branch. Other jobs keep theirs, since only a copy changes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if recurse:
            self._stacks = tuple(_applied(stack, fn) for stack in self._stacks)
        return self

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        return self.combined(site, hidden_states, self._stacks[site].bottleneck(hidden_states))

    def combined(self, site: int, hidden_states: Tensor, bottleneck: Tensor) -> Tensor:
        """Combine the sources, from their bottleneck activations `[..., T r]`."""
        raise TypeError(f"{type(self).__name__} does not say how it combines its sources")

    def pack_key(self) -> object:
        """Return a key: branches on the same stacks share one down-projection."""
        return id(self._stacks[0])

    @classmethod
    def added_packed(cls, branches: Sequence[Branch], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute one down-projection for all rows, then each branch's own combination."""
        members = [branch for branch in branches if isinstance(branch, SourceBranch)]
        bottleneck = members[0].stacks[site].bottleneck(hidden_states)
        parts = zip(members, hidden_states.split(list(rows)), bottleneck.split(list(rows)), strict=True)
        return torch.cat([branch.combined(site, part, activated) for branch, part, activated in parts])


def _applied(stack: SourceStack, fn: Callable[[Tensor], Tensor]) -> SourceStack:
    # A stack that does not change stays shared, since jobs in a pack are computed together because it is the same object.
    if all(fn(buffer) is buffer for buffer in stack.buffers()):
        return stack
    return copy.deepcopy(stack)._apply(fn)  # type: ignore[no-untyped-call,no-any-return]
