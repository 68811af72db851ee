"""A job's own bottleneck adapter at every layer: the source stage, and the single-task baseline."""

from collections.abc import Sequence

import torch
from adapters.configuration import BnConfig
from adapters.methods.modeling import Adapter
from torch import Tensor, nn

from scalearn.methods.branch import Branch


class BottleneckBranch(Branch):
    """`U f(D x + a) + b`, trained, built from the library's own adapter modules."""

    def __init__(self, config: BnConfig, sites: int, hidden: int) -> None:
        """Builds one adapter per site, initialised as the library does from the global random stream."""
        super().__init__()
        width = int(hidden // config["reduction_factor"])
        self.adapters = nn.ModuleList(Adapter("adapter", hidden, width, config) for _ in range(sites))

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        adapter = self.adapters[site]
        up: Tensor = adapter.adapter_up(adapter.adapter_down(hidden_states))
        return up

    def pack_key(self) -> object:
        """Adapters of equal shape and activation run as one batched product."""
        down, up = self.adapters[0].adapter_down[0], self.adapters[0].adapter_up
        return (tuple(down.weight.shape), tuple(up.weight.shape), str(self.adapters[0].non_linearity.f))

    @classmethod
    def added_packed(cls, branches: Sequence[Branch], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """One batched product per projection where the jobs' row counts agree."""
        if len(set(rows)) > 1:
            return super().added_packed(branches, site, hidden_states, rows)
        adapters = [branch.adapters[site] for branch in branches if isinstance(branch, BottleneckBranch)]
        flat = hidden_states.reshape(len(adapters), -1, hidden_states.shape[-1])
        activated = adapters[0].non_linearity(_batched_linear(flat, [adapter.adapter_down[0] for adapter in adapters]))
        return _batched_linear(activated, [adapter.adapter_up for adapter in adapters]).view_as(hidden_states)


def _batched_linear(inputs: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """K linear layers on their own rows: `[K, rows, in]` to `[K, rows, out]`."""
    weight = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
    bias = torch.stack([layer.bias for layer in layers]).unsqueeze(1)
    device = inputs.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
    return torch.baddbmm(bias.to(dtype), inputs.to(dtype), weight.to(dtype))
