"""AdapterFusion (Pfeiffer et al. 2021): attention over source outputs, with the parameters of the library's own fusion module.

With query q, key map K, value map V and source outputs u_t = U_t z_t + b_t, the library computes K u_t and V u_t for every source. Since q
. K u_t = K'q . u_t and sum_t p_t V u_t = V sum_t p_t u_t, one product with K' and one with V per token give the same result. Since K'q .
U_t z_t = U_t'K'q . z_t, no [rows, length, T, d] tensor is needed.
"""

from collections.abc import Sequence

import torch
from adapters.configuration import AdapterFusionConfig
from adapters.methods.modeling import BertFusion
from torch import Tensor, nn
from torch.nn import functional

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.random_streams import BRANCH_DROPOUT, give_each_job_its_stream
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.source_branch import SourceBranch

REGULARISATION = 0.01


class FusionBranch(SourceBranch):
    """One query, key and value map per layer. The query is computed from the layer's own hidden state."""

    def __init__(self, stacks: Sequence[SourceStack], attention_dropout: float) -> None:
        """Build the library's dynamic fusion for every site, initialised from the global random stream."""
        super().__init__(stacks)
        config = AdapterFusionConfig.load("dynamic")
        hidden = stacks[0].up_bias.shape[1]
        self.sites = tuple(BertFusion(config, hidden, attention_dropout) for _ in stacks)
        self.fusions = nn.ModuleList(self.sites)
        give_each_job_its_stream(self.fusions, self.streams, BRANCH_DROPOUT)

    def combined(self, site: int, hidden_states: Tensor, bottleneck: Tensor) -> Tensor:
        """See `SourceBranch.combined`."""
        fusion, stack = self.sites[site], self._stacks[site]
        up, by_source = stack.up_weight.flatten(1), (stack.sources, -1)
        query = fusion.query(hidden_states)
        pulled = functional.linear(query, fusion.key.weight.T)
        scores = (functional.linear(pulled, up.T) * bottleneck).unflatten(-1, by_source).sum(-1)
        scores = scores + functional.linear(pulled, stack.up_bias) + (query * fusion.key.bias).sum(-1, keepdim=True)
        attention = fusion.dropout(scores).softmax(-1)
        value: Tensor = fusion.value(stack.sum_by_token(bottleneck, attention))
        return value

    def penalty(self) -> Tensor:
        """Compute the term that pulls every value map towards the identity, which the library's trainer adds to the loss: a scalar."""
        total = torch.zeros((), device=self.stacks[0].up_bias.device)
        for fusion in self.sites:
            weight: Tensor = fusion.value.weight
            total = total + REGULARISATION * (torch.eye(weight.shape[0], device=weight.device) - weight).pow(2).sum()
        return total


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> FusionBranch:
    """Build AdapterFusion with the backbone's attention dropout, as the library does."""
    assert sources is not None
    return FusionBranch(sources.stacks, getattr(encoder.config, "attention_probs_dropout_prob", 0.0))
