"""The sources' weights merged into one frozen module: task arithmetic, TIES and DARE-TIES.

Each tensor is merged on its own, as PEFT's `add_weighted_adapter` does: of LoRAs A and B (Zhang et al. 2023, arXiv 2306.14870), of
bottleneck adapters D, a, U and b. Half of a weight, its square root, goes to the way down and half to the way up, also as in PEFT, so that
one source of weight w becomes w times itself (with a ReLU or without activation).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.source_stack import BottleneckWeights, SourceStack
from scalearn.methods.one_module import one_module

Merge = Callable[[Tensor, float], Tensor]
"""Returns what several tensors `[T, ...]` become together, `[...]`. The number is the density."""


def task_arithmetic(tensors: Tensor, density: float = 1.0) -> Tensor:
    """Return the sum (Ilharco et al. 2023, arXiv 2212.04089). Nothing is dropped."""
    return tensors.sum(dim=0)


def ties(tensors: Tensor, density: float) -> Tensor:
    """Trim, elect a sign, and average what agrees with it (Yadav et al. 2023, arXiv 2306.01708).

    Args:
        tensors: One per source, `[T, ...]`.
        density: Share of each tensor's entries that are kept, the largest ones.
    """
    flat = tensors.flatten(1)
    kept = flat.abs().topk(int(density * flat.shape[1]), dim=1).indices
    trimmed = torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept))
    return elected_mean(trimmed).view(tensors.shape[1:])


def dare_ties(tensors: Tensor, density: float) -> Tensor:
    """Drop entries at random instead, and divide the others by the density (Yu et al. 2024, arXiv 2311.03099); then as TIES.

    Entries are drawn from the global random stream, tensor after tensor, on the CPU.
    """
    kept = [torch.bernoulli(torch.full_like(tensor, density, device="cpu")).to(tensor) for tensor in tensors]
    return elected_mean(tensors * torch.stack(kept) / density)


def elected_mean(tensors: Tensor) -> Tensor:
    """Return the mean, entry by entry, over the tensors whose sign is that of the sum. Zeros have none, and a sum of zero is positive.

    Args:
        tensors: `[T, ...]`.
    """
    elected = torch.where(tensors.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = tensors.sign() == elected
    return (tensors * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


MERGES: dict[str, Merge] = {"task_arithmetic": task_arithmetic, "ties": ties, "dare_ties": dare_ties}


def merged(stack: SourceStack, merge: Merge, density: float, weight: float) -> BottleneckWeights:
    """Return the sources of a site as one.

    Args:
        stack: The sources.
        merge: How each of their tensors is merged.
        density: For `merge`.
        weight: Factor of the merged module.
    """
    half, count = math.sqrt(weight), stack.sources
    down, down_bias = (tensor.unflatten(0, (count, -1)) for tensor in (stack.down_weight, stack.down_bias))
    return BottleneckWeights(
        merge(down, density) * half,
        merge(down_bias, density) * half,
        merge(stack.up_weight.movedim(1, 0), density) * half,
        merge(stack.up_bias, density) * weight,
    )


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> Branch:
    """Build the merged module, which does not learn. What DARE drops depends on the job's seed alone.

    Raises:
        UserError: The sources are unlike LoRAs.
    """
    assert sources is not None
    settings: dict[str, Any] = dict(config.settings)
    merge, density = MERGES[config.method], settings.get("density", 1.0)
    weights = [merged(stack, merge, density, settings["weight"]) for stack in sources.stacks]
    branch = one_module(sources, config.method)
    branch.take(weights)
    return branch.requires_grad_(False)
