"""A job's own bottleneck adapter at every layer, for the source stage and the single-task baseline."""

from collections.abc import Sequence

import torch
from adapters.configuration import BnConfig
from adapters.methods.modeling import Adapter
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder, bottleneck_config
from scalearn.config import JobConfig
from scalearn.formats.adapter_tensors import bottleneck_width
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import BottleneckWeights, bottleneck_weights


class BottleneckBranch(Branch):
    """The trained adapter `U f(D x + a) + b`, built from the library's own adapter modules."""

    def __init__(self, config: BnConfig, sites: int, hidden: int) -> None:
        """Build one adapter per site, initialised as in the library from the global random stream."""
        super().__init__()
        width = bottleneck_width(hidden, config["reduction_factor"])
        self.config = config
        self.sites = tuple(Adapter("adapter", hidden, width, config) for _ in range(sites))
        self.adapters = nn.ModuleList(self.sites)

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        adapter = self.sites[site]
        up: Tensor = adapter.adapter_up(adapter.adapter_down(hidden_states))
        return up

    def pack_key(self) -> object:
        """Return a key: adapters of equal shape and activation run as one batched product."""
        first = self.weights()[0]
        return (tuple(first.down_weight.shape), tuple(first.up_weight.shape), str(self.sites[0].non_linearity.f))

    @classmethod
    def added_packed(cls, branches: Sequence[Branch], site: int, hidden_states: Tensor, rows: Sequence[int]) -> Tensor:
        """Compute one batched product per projection if the jobs have equal numbers of rows."""
        if len(set(rows)) > 1:
            return super().added_packed(branches, site, hidden_states, rows)
        adapters = [branch.sites[site] for branch in branches if isinstance(branch, BottleneckBranch)]
        weights = [bottleneck_weights(adapter) for adapter in adapters]
        flat = hidden_states.reshape(len(adapters), -1, hidden_states.shape[-1])
        down = batched_linear(flat, [one.down_weight for one in weights], [one.down_bias for one in weights])
        activated: Tensor = adapters[0].non_linearity(down)
        return batched_linear(activated, [one.up_weight for one in weights], [one.up_bias for one in weights]).view_as(hidden_states)

    def weights(self) -> list[BottleneckWeights]:
        """Return the adapter's weights at each site."""
        return [bottleneck_weights(adapter) for adapter in self.sites]


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> BottleneckBranch:
    """Build the library's `seq_bn` adapter at every site."""
    return BottleneckBranch(bottleneck_config(config.settings), encoder.sites, encoder.hidden_size)


@torch.no_grad()
def fill_bottleneck(branch: BottleneckBranch, weights: Sequence[BottleneckWeights]) -> None:
    """Copy adapter weights, given per site, into a branch of their shape."""
    for module, given in zip(branch.sites, weights, strict=True):
        own = bottleneck_weights(module)
        for name in ("down_weight", "down_bias", "up_weight", "up_bias"):
            getattr(own, name).copy_(getattr(given, name))


def batched_linear(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> Tensor:
    """Compute K linear layers, each on its own rows: `[K, rows, in]` to `[K, rows, out]`."""
    device = inputs.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
    weight = torch.stack(list(weights)).transpose(1, 2)
    if not biases:
        return torch.bmm(inputs.to(dtype), weight.to(dtype))
    bias = torch.stack(list(biases)).unsqueeze(1)
    return torch.baddbmm(bias.to(dtype), inputs.to(dtype), weight.to(dtype))
