"""LoraHub (Huang et al. 2024, arXiv 2307.13269): sources' weights averaged with numbers that are found without gradients.

`scalearn.training.weight_search` finds them. The sum of LoRAs is that of their A, and of their B; of bottleneck adapters, that of all their
tensors.
"""

from typing import Any

import torch
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.one_module import OneAdapter, OneLora, stacked_weights
from scalearn.methods.soup import average


class SourceWeights(nn.Module):
    """The numbers that are searched for, one per source. No gradient reaches them."""

    def __init__(self, sources: SourceAdapters) -> None:
        """Begin with the average of all sources, of which a head can learn."""
        super().__init__()
        self.names, self._stacks = sources.names, sources.stacks
        self.values = nn.Parameter(torch.full((len(sources.names),), 1.0 / len(sources.names)))
        self._followed: Tensor | None = None

    @torch.no_grad()
    def follow(self, module: OneAdapter | OneLora) -> None:
        """Give a module the sum of the sources' weights, unless it has it already."""
        if self._followed is None or not torch.equal(self._followed, self.values):
            module.take([average(stacked_weights(stack), self.values) for stack in self._stacks])
            self._followed = self.values.detach().clone()

    def facts(self) -> dict[str, Any]:
        """Return the numbers by source."""
        return {"source_weights": dict(zip(self.names, self.values.tolist(), strict=True))}


class HubAdapter(OneAdapter):
    """One adapter, the weighted sum of the sources' weights."""

    searched = True

    def __init__(self, sources: SourceAdapters) -> None:
        """Begin with the average."""
        super().__init__(sources)
        self.requires_grad_(False)
        self.source_weights = SourceWeights(sources)
        self.source_weights.follow(self)

    def begin_pass(self) -> None:
        """Follow the search."""
        self.source_weights.follow(self)

    def weights(self) -> list[BottleneckWeights]:
        """See `BottleneckBranch.weights`."""
        self.source_weights.follow(self)
        return super().weights()

    def facts(self) -> dict[str, Any]:
        """Return the numbers by source."""
        return self.source_weights.facts()


class HubLora(OneLora):
    """One LoRA, the weighted sum of the sources' A, and of their B."""

    searched = True

    def __init__(self, sources: SourceAdapters) -> None:
        """Begin with the average.

        Raises:
            UserError: The LoRAs differ in rank, modules or factor.
        """
        super().__init__(sources, "lorahub")
        self.requires_grad_(False)
        self.source_weights = SourceWeights(sources)
        self.source_weights.follow(self)

    def begin_pass(self) -> None:
        """Follow the search."""
        self.source_weights.follow(self)

    def tensors(self) -> dict[str, Tensor]:
        """See `LoraBranch.tensors`."""
        self.source_weights.follow(self)
        return super().tensors()

    def facts(self) -> dict[str, Any]:
        """Return the numbers by source."""
        return self.source_weights.facts()


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> Branch:
    """Build the module that follows the search.

    Raises:
        UserError: The sources are unlike LoRAs.
    """
    assert sources is not None
    return HubAdapter(sources) if sources.lora is None else HubLora(sources)
