"""ProPETL (Zeng et al. 2023): all layers share one prototype adapter, which a learned binary mask adapts to each layer.

A mask keeps the share k of entries with the largest absolute scores. In a joint job each task has a mask for all layers, and each layer has
a mask for all tasks; the two are joined by OR.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from adapters.configuration import BnConfig
from adapters.methods.modeling import Adapter
from torch import Tensor, nn
from torch.nn import functional

from scalearn.backbone.encoder import Encoder, bottleneck_config
from scalearn.config import JobConfig
from scalearn.formats.adapter_tensors import bottleneck_width
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch, ParameterGroup
from scalearn.layers.source_stack import BottleneckWeights, bottleneck_weights

JOINT_INIT_STD = 0.01
"""Standard deviation of the prototype's weights in a joint job, as published. In other jobs it begins like the library's adapters."""


class _TopShare(torch.autograd.Function):
    """Maps the share k of each slice's largest entries to 1, and the others to 0. The gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, share: float) -> Tensor:
        """Cut each `scores[i]` at its own threshold."""
        flat = scores.flatten(1)
        dropped = int((1 - share) * flat.shape[1])
        mask = torch.ones_like(flat)
        return mask.scatter_(1, flat.topk(dropped, dim=1, largest=False).indices, 0.0).view_as(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient unchanged."""
        return gradients[0], None


def binary_masks(scores: Tensor, share: float) -> Tensor:
    """Return masks that keep the entries with the largest absolute scores.

    Args:
        scores: `[masks, rows, columns]`.
        share: Share k of entries that a mask keeps. Of n entries, the `int((1 - k) n)` smallest become 0.

    Returns:
        Masks of 0 and 1 of the same shape. Their gradient is that of the absolute scores.
    """
    masks: Tensor = _TopShare.apply(scores.abs(), share)  # type: ignore[no-untyped-call]
    return masks


class PropetlBranch(Branch):
    """A prototype `U f(D x + a) + b` with masked weights in every layer: `D * mask_down^T` and `U * mask_up^T`. Biases have no mask."""

    drawn_in_pass = ("_masked",)

    def __init__(self, config: BnConfig, sites: int, hidden: int, share: float) -> None:
        """Build the prototype as in the library, and draw the scores, from the global random stream.

        Args:
            config: Configuration of the prototype.
            sites: Number of layers, each with its own masks.
            hidden: Hidden size d.
            share: Share k of entries that a mask keeps.
        """
        super().__init__()
        width = bottleneck_width(hidden, config["reduction_factor"])
        self.share = share
        self.prototype = Adapter("prototype", hidden, width, config)
        self.down_scores = drawn_scores(sites, hidden, width)
        self.up_scores = drawn_scores(sites, width, hidden)
        self._masked: list[BottleneckWeights] | None = None

    def begin_pass(self) -> None:
        """Compute and apply all masks."""
        self._masked = self._mask()

    def masks(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return each site's masks of the down-projection, `[r, d]`, and of the up-projection, `[d, r]`."""
        down, up = binary_masks(self.down_scores, self.share), binary_masks(self.up_scores, self.share)
        return list(down.transpose(1, 2)), list(up.transpose(1, 2))

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """See `Branch.added`."""
        weights = self.weights()[site]
        activated = self.prototype.non_linearity(functional.linear(hidden_states, weights.down_weight, weights.down_bias))
        return functional.linear(activated, weights.up_weight, weights.up_bias)

    def weights(self) -> list[BottleneckWeights]:
        """Return the masked adapter of every site, which is a plain adapter that computes the same."""
        return self._mask() if self._masked is None else self._masked

    def _mask(self) -> list[BottleneckWeights]:
        own = bottleneck_weights(self.prototype)
        down, up = self.masks()
        return [
            BottleneckWeights(own.down_weight * down_mask, own.down_bias, own.up_weight * up_mask, own.up_bias)
            for down_mask, up_mask in zip(down, up, strict=True)
        ]

    def parameter_groups(self, config: JobConfig) -> list[ParameterGroup]:
        """Give the scores their own learning rate (settings `mask_learning_rate` or `mask_learning_rate_factor`)."""
        optimisation, settings = config.optimisation, config.settings
        rate = settings.get("mask_learning_rate")
        mask_rate = float(str(rate if rate is not None else settings["mask_learning_rate_factor"]))
        if rate is None:
            mask_rate *= optimisation.learning_rate
        scores = tuple(parameter for name, parameter in self.learned().items() if "scores" in name)
        return [
            ParameterGroup(tuple(self.prototype.parameters()), optimisation.learning_rate, optimisation.weight_decay),
            ParameterGroup(scores, mask_rate, optimisation.weight_decay),
        ]


class JointPropetlBranch(PropetlBranch):
    """ProPETL-m: one mask per task for all layers, and one mask per layer for all tasks, joined by OR.

    In the published code the first layer's mask *is* the last task's: one score matrix has both names. This code does the same.
    """

    def __init__(self, config: BnConfig, sites: int, hidden: int, share: float, tasks: int) -> None:
        """Build the prototype, then scores per task and per layer after the first, from the global random stream.

        Args:
            config: Configuration of the prototype.
            sites: Number of layers.
            hidden: Hidden size d.
            share: Share k of entries that a mask keeps.
            tasks: Number of tasks of the job.
        """
        super().__init__(config, 0, hidden, share)
        width = bottleneck_width(hidden, config["reduction_factor"])
        for layer in (self.prototype.adapter_down[0], self.prototype.adapter_up):
            nn.init.normal_(layer.weight, std=JOINT_INIT_STD)
            nn.init.zeros_(layer.bias)
        self.tasks = tasks
        self.down_scores = drawn_scores(tasks + sites - 1, width, hidden)
        self.up_scores = drawn_scores(tasks + sites - 1, hidden, width)

    def masks(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See `PropetlBranch.masks`. Here they are the masks for the task whose rows are in the backbone."""
        return self._joined(self.down_scores), self._joined(self.up_scores)

    def _joined(self, scores: Tensor) -> list[Tensor]:
        needed = torch.cat([scores[self.task].unsqueeze(0), scores[self.tasks - 1 :]])
        task, *layers = binary_masks(needed, self.share)
        # OR as a product, as published. Its gradient reaches a score only where the other mask is 0.
        return [1 - (1 - task) * (1 - layer) for layer in layers]


def drawn_scores(masks: int, rows: int, columns: int) -> nn.Parameter:
    """Draw the scores of several masks, each Kaiming uniform with a = sqrt 5: `[masks, rows, columns]`."""
    scores = nn.Parameter(torch.empty(masks, rows, columns))
    for matrix in scores.data:
        nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
    return scores


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> PropetlBranch:
    """Build the branch of a single-task job, or the joint branch for several tasks."""
    settings: dict[str, Any] = dict(config.settings)
    library = bottleneck_config(settings)
    shape = (library, encoder.sites, encoder.hidden_size, float(settings["sparsity"]))
    return PropetlBranch(*shape) if config.stage != "joint" else JointPropetlBranch(*shape, tasks=len(config.data))
