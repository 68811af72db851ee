"""The sources' weighted sum as one ordinary module, and the method that trains all of it.

`sum_t omega_t * (U_t f(D_t x + a_t) + b_t)` equals `U f(D x + a) + b` if the D_t are stacked and the scaled U_t lie side by side: one
bottleneck of width T r. The sum of LoRAs becomes one LoRA in the same way, without f, a and b.
"""

from collections.abc import Iterable, Sequence

import torch
from adapters.configuration import BnConfig
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.adapter_tensors import exact_reduction
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.bottleneck import BottleneckBranch, fill_bottleneck
from scalearn.methods.lora import LoraBranch, LoraShape


def folded(sources: SourceAdapters, omega: Iterable[Tensor], kept: Sequence[int] | None = None) -> BottleneckBranch | LoraBranch:
    """Return the sources' weighted sum as one module.

    Args:
        sources: The sources.
        omega: The coefficients at each site, `[T, d or 1]`.
        kept: Places of the sources that the module has. None: all.
    """
    places = list(range(len(sources.names))) if kept is None else list(kept)
    return _one_adapter(sources, omega, places) if sources.lora is None else _one_lora(sources, omega, places)


def _one_adapter(sources: SourceAdapters, omega: Iterable[Tensor], kept: list[int]) -> BottleneckBranch:
    weights = []
    for stack, coefficients in zip(sources.stacks, omega, strict=True):
        up, _ = stack.fold(coefficients)
        up = up.unflatten(-1, (stack.sources, -1))[:, kept].flatten(1)
        down = stack.down_weight.unflatten(0, (stack.sources, -1))[kept].flatten(0, 1)
        down_bias = stack.down_bias.unflatten(0, (stack.sources, -1))[kept].flatten()
        weights.append(BottleneckWeights(down, down_bias, up, (coefficients * stack.up_bias)[kept].sum(0)))
    _, hidden = sources.stacks[0].size
    config = BnConfig.from_dict({**sources.config, "reduction_factor": exact_reduction(hidden, len(weights[0].down_bias))})
    with torch.random.fork_rng(devices=[]):
        branch = BottleneckBranch(config, len(weights), hidden)
    fill_bottleneck(branch, weights)
    return branch


def _one_lora(sources: SourceAdapters, omega: Iterable[Tensor], kept: list[int]) -> LoraBranch:
    """Return one LoRA whose rank is the sum of the kept sources' ranks, without the zeros that fill up smaller ones."""
    assert sources.lora is not None
    rows = [index * sources.width + row for index in kept for row in range(max(sources.lora.ranks[index]))]
    sizes = [stack.size for stack in sources.stacks]
    shape = LoraShape(dict(zip(sources.lora.modules, sizes, strict=True)), len(rows), alpha=float(len(rows)))  # B is scaled already
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        branch = LoraBranch(shape)
        for down, up, stack, coefficients in zip(branch.down, branch.up, sources.stacks, omega, strict=True):
            down.copy_(stack.down_weight[rows])
            up.copy_(stack.fold(coefficients)[0][:, rows])
    return branch


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> BottleneckBranch | LoraBranch:
    """Build the sum at ScaLearn's first omegas, 2 / T. All of it learns, so that omega need not be told apart from the sources."""
    assert sources is not None
    start = torch.full((len(sources.names), 1), 2.0 / len(sources.names), device=sources.stacks[0].up_bias.device)
    return folded(sources, [start] * len(sources.stacks))
