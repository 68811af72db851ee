"""The frozen source adapters of one site, side by side, and their weighted sum in two matrix products.

With down-projections D_t, up-projections U_t, biases a_t and b_t, the transfer layer computes `sum_t omega_t * (U_t f(D_t x + a_t) + b_t)`.
Stack the D_t to one [T r, d] matrix, and lay the U_t, with rows scaled by omega_t, side by side to one [d, T r] matrix. This gives the same
sum without a [rows, length, T, d] tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from adapters.methods.modeling import Adapter
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BottleneckWeights:
    """One adapter at one layer: `up_weight @ f(down_weight @ x + down_bias) + up_bias`."""

    down_weight: Tensor
    """`[r, d]`"""
    down_bias: Tensor
    """`[r]`"""
    up_weight: Tensor
    """`[d, r]`"""
    up_bias: Tensor
    """`[d]`"""


def bottleneck_weights(adapter: Adapter) -> BottleneckWeights:
    """Return the weights of one module of the adapters library, without a copy."""
    down, up = adapter.adapter_down[0], adapter.adapter_up
    return BottleneckWeights(down.weight, down.bias, up.weight, up.bias)


def identity(values: Tensor) -> Tensor:
    """Return the values: the activation of a LoRA."""
    return values


class SourceStack(nn.Module):
    """T frozen bottleneck adapters of width r at one site, for hidden size d; or LoRAs, from the inputs of a module to its outputs."""

    down_weight: Tensor
    down_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor

    def __init__(self, sources: Sequence[BottleneckWeights], activation: Activation = functional.relu) -> None:
        """Stack the sources in the given order. The rows of omega follow it.

        Args:
            sources: Adapters of one width r and one hidden size d. They are copied.
            activation: The function f, the same for all of them.
        """
        super().__init__()
        self.activation = activation
        self.rectified = activation is functional.relu or isinstance(activation, nn.ReLU)
        self.sources = len(sources)
        self.register_buffer("down_weight", torch.cat([source.down_weight.detach() for source in sources]))
        self.register_buffer("down_bias", torch.cat([source.down_bias.detach() for source in sources]))
        self.register_buffer("up_weight", torch.stack([source.up_weight.detach() for source in sources], dim=1))
        self.register_buffer("up_bias", torch.stack([source.up_bias.detach() for source in sources]))

    @property
    def size(self) -> tuple[int, int]:
        """Inputs of the down-projections, and outputs of the up-projections."""
        return self.down_weight.shape[1], self.up_weight.shape[0]

    def bottleneck(self, hidden_states: Tensor) -> Tensor:
        """Return the bottleneck activations of all sources side by side: `[..., d]` to `[..., T r]`."""
        # In two dimensions the product is no view, so the activation may overwrite it without a copy in the backward pass.
        down = functional.linear(hidden_states.flatten(0, -2), self.down_weight, self.down_bias)
        activated = down.relu_() if self.rectified else self.activation(down)
        return activated.view(*hidden_states.shape[:-1], -1)

    def fold(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sources' weighted sum as one up-projection.

        Args:
            omega: `[..., T, d or 1]`.

        Returns:
            Weight `[..., d, T r]` and bias `[..., d]`.
        """
        weight = self.up_weight * omega.transpose(-1, -2).unsqueeze(-1)
        return weight.flatten(-2), (omega * self.up_bias).sum(dim=-2)

    def weighted_sum(self, bottleneck: Tensor, omega: Tensor) -> Tensor:
        """Return `sum_t omega_t * up_t`, folded.

        Args:
            bottleneck: `[..., T r]`, as `bottleneck()` returns it.
            omega: `[T, d or 1]`.

        Returns:
            `[..., d]`, without residual.
        """
        if omega.shape[-1] == 1 and omega.requires_grad and bottleneck.dtype == omega.dtype:
            # With one number per source, the activations can be scaled instead of the up-projection, and the gradient of omega needs no
            # product of its own. Under autocast the casts would cost more than that product.
            widths = self.up_weight.shape[-1]
            weight, bias = self.up_weight.flatten(-2), (omega * self.up_bias).sum(dim=-2)
            bottleneck = bottleneck * omega.repeat_interleave(widths, dim=0).squeeze(-1)
        else:
            weight, bias = self.fold(omega)
        return functional.linear(bottleneck.flatten(0, -2), weight, bias).view(*bottleneck.shape[:-1], -1)

    def sum_by_token(self, bottleneck: Tensor, omega: Tensor) -> Tensor:
        """Return `sum_t omega_t * up_t` for coefficients that each token has of its own.

        Args:
            bottleneck: `[..., T r]`, as `bottleneck()` returns it.
            omega: `[..., T]`.

        Returns:
            `[..., d]`, without residual.
        """
        scaled = (bottleneck.unflatten(-1, (self.sources, -1)) * omega.unsqueeze(-1)).flatten(-2)
        return functional.linear(scaled, self.up_weight.flatten(1)) + functional.linear(omega, self.up_bias.T)

    def packed_weighted_sum(self, bottleneck: Tensor, omega: Tensor) -> Tensor:
        """Compute `weighted_sum` for K jobs at once, each with its own omega and the same number of rows.

        Args:
            bottleneck: `[K rows, length, T r]`, the rows of one job next to each other.
            omega: `[K, T, d or 1]`.

        Returns:
            `[K rows, length, d]`, without residual.
        """
        weight, bias = self.fold(omega)
        jobs, (rows, length, width) = omega.shape[0], bottleneck.shape
        flat = bottleneck.reshape(jobs, rows // jobs * length, width)
        dtype = torch.get_autocast_dtype(flat.device.type) if torch.is_autocast_enabled(flat.device.type) else flat.dtype
        summed = torch.baddbmm(bias.unsqueeze(1).to(dtype), flat.to(dtype), weight.transpose(1, 2).to(dtype))
        return summed.view(rows, length, -1)


def plain_weighted_sum(stack: SourceStack, hidden_states: Tensor, omega: Tensor) -> Tensor:
    """Compute the transfer layer by its definition, one source after another, as the reference for the folded path.

    Args:
        stack: The sources.
        hidden_states: `[rows, length, d]`.
        omega: `[T, d or 1]`.

    Returns:
        `[rows, length, d]`, without residual.
    """
    down_weights, down_biases = stack.down_weight.chunk(stack.sources), stack.down_bias.chunk(stack.sources)
    ups = []
    for source in range(stack.sources):
        activated = stack.activation(functional.linear(hidden_states, down_weights[source], down_biases[source]))
        ups.append(functional.linear(activated, stack.up_weight[:, source], stack.up_bias[source]))
    return (torch.stack(ups, dim=2) * omega).sum(dim=2)
