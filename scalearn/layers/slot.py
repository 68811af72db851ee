"""The only place where this package joins the adapters library: a slot that looks like a single adapter."""

from collections.abc import Callable

from adapters.methods.modeling import Adapter
from torch import Tensor, nn

AddedAtSite = Callable[[int, Tensor], Tensor]


class Slot(nn.Module):
    """Takes a place in `BottleneckLayer.adapters` and returns `added(x) + residual`.

    The library's own adapter, which the slot replaces, decides where layer norms and residuals sit. So the placement is the library's for
    every architecture.
    """

    def __init__(self, site: int, placement: Adapter, added: AddedAtSite) -> None:
        """Take the library's adapter only for its placement. Its weights are never used."""
        super().__init__()
        self.site = site
        self.placement = placement
        self.added = added

    def pre_forward(
        self, hidden_states: Tensor, input_tensor: Tensor, layer_norm: nn.Module | None, fusion_config: object = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Run the library's step before the adapter; return hidden states, query and residual, each of the shape of `hidden_states`."""
        placed: tuple[Tensor, Tensor | None, Tensor] = self.placement.pre_forward(hidden_states, input_tensor, layer_norm, fusion_config)
        return placed

    def forward(self, hidden_states: Tensor, residual_input: Tensor, output_gating: bool = False) -> tuple[Tensor, None, Tensor]:
        """Add the jobs' outputs to the residual, both of one shape."""
        added = self.added(self.site, hidden_states)
        return added + residual_input, None, added

    def post_forward(
        self, hidden_states: Tensor, input_hidden_states: Tensor, input_tensor: Tensor, layer_norm: nn.Module | None
    ) -> Tensor:
        """Run the library's step after the adapter: the layer's own residual and layer norm."""
        placed: Tensor = self.placement.post_forward(hidden_states, input_hidden_states, input_tensor, layer_norm)
        return placed
