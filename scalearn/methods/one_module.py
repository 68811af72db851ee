"""One adapter or one LoRA whose weights are made from those of the sources, for methods that merge them."""

from collections.abc import Sequence

import torch
from adapters.configuration import BnConfig

from scalearn.formats.peft_layout import require_alike
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.source_stack import BottleneckWeights, SourceStack
from scalearn.methods.bottleneck import BottleneckBranch, fill_bottleneck
from scalearn.methods.lora import LoraBranch, LoraShape


class OneAdapter(BottleneckBranch):
    """An adapter of the sources' shape."""

    def __init__(self, sources: SourceAdapters) -> None:
        """Take the sources' shape, not their weights. See `take`."""
        hidden = sources.stacks[0].up_bias.shape[1]
        super().__init__(BnConfig.from_dict(dict(sources.config)), len(sources.stacks), hidden)

    def take(self, merged: Sequence[BottleneckWeights]) -> None:
        """Copy weights, given per site."""
        fill_bottleneck(self, merged)


class OneLora(LoraBranch):
    """A LoRA of the sources' rank, factor and modules."""

    def __init__(self, sources: SourceAdapters, method: str) -> None:
        """Take the sources' shape, not their weights. See `take`.

        Args:
            sources: The LoRAs.
            method: Key of the method, for the message.

        Raises:
            UserError: They differ in rank, modules or factor.
        """
        assert sources.lora is not None
        lora = sources.lora
        products = [[*zip(ranks, scales, strict=True)] for ranks, scales in zip(lora.ranks, lora.scales, strict=True)]
        by_module = [{name: each for name, each in zip(lora.modules, at, strict=True) if each[0] > 0} for at in products]
        require_alike(method, dict(zip(sources.names, by_module, strict=True)))
        rank, scale = products[0][0]
        sizes = [stack.size for stack in sources.stacks]
        super().__init__(LoraShape(dict(zip(lora.modules, sizes, strict=True)), rank, scale * rank))

    @torch.no_grad()
    def take(self, merged: Sequence[BottleneckWeights]) -> None:
        """Copy weights, given per site: D is A, and U is s B."""
        for down, up, given in zip(self.down, self.up, merged, strict=True):
            down.copy_(given.down_weight)
            up.copy_(given.up_weight / (self.shape.scale or 1.0))  # U is zero where s is


def one_module(sources: SourceAdapters, method: str) -> OneAdapter | OneLora:
    """Return one module of the sources' shape. What it computes is not given yet.

    Raises:
        UserError: The sources are unlike LoRAs.
    """
    return OneAdapter(sources) if sources.lora is None else OneLora(sources, method)


def stacked_weights(stack: SourceStack) -> BottleneckWeights:
    """Return the weights of all sources at a site, as the stack holds them: `[T r, d]`, `[T r]`, `[d, T, r]` and `[T, d]`."""
    return BottleneckWeights(stack.down_weight, stack.down_bias, stack.up_weight, stack.up_bias)
