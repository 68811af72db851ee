"""What stands at a site and lets each job of a pass add its own: after a feed-forward block, or at a linear module.

`Slot` is the only place where this package joins the adapters library: it looks like a single adapter. `LinearSlot` needs nothing of it.
"""

from collections.abc import Callable

from adapters.methods.modeling import Adapter
from torch import Tensor, nn

from scalearn.errors import UserError
from scalearn.layers.branch import BranchPack

AddAtSite = Callable[[int, Tensor, Tensor], Tensor]


class Slot(nn.Module):
    """Takes a place in `BottleneckLayer.adapters` and returns the residual, onto which each job has added its own.

    The library's own adapter, which the slot replaces, decides where layer norms and residuals sit. So the placement is the library's for
    every architecture.
    """

    def __init__(self, site: int, placement: Adapter, add: AddAtSite) -> None:
        """Take the library's adapter only for its placement. Its weights are never used."""
        super().__init__()
        self.site = site
        self.placement = placement
        self.add = add

    def pre_forward(
        self, hidden_states: Tensor, input_tensor: Tensor, layer_norm: nn.Module | None, fusion_config: object = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Run the library's step before the adapter; return hidden states, query and residual, each of the shape of `hidden_states`."""
        placed: tuple[Tensor, Tensor | None, Tensor] = self.placement.pre_forward(hidden_states, input_tensor, layer_norm, fusion_config)
        return placed

    def forward(self, hidden_states: Tensor, residual_input: Tensor, output_gating: bool = False) -> tuple[Tensor, None, Tensor]:
        """Add the jobs' outputs to the residual, both of one shape."""
        output = self.add(self.site, hidden_states, residual_input)
        return output, None, output

    def post_forward(
        self, hidden_states: Tensor, input_hidden_states: Tensor, input_tensor: Tensor, layer_norm: nn.Module | None
    ) -> Tensor:
        """Run the library's step after the adapter: the layer's own residual and layer norm."""
        placed: Tensor = self.placement.post_forward(hidden_states, input_hidden_states, input_tensor, layer_norm)
        return placed


class LinearSlot:
    """A forward hook of a linear module. Each job adds, onto the module's output, what it computes from the module's input."""

    def __init__(self, module: str, pack: BranchPack) -> None:
        """Stand at the module of this name, below the model's heads."""
        self.module = module
        self.pack = pack

    @property
    def used(self) -> bool:
        """Whether a job of the running pass adds here. Otherwise the module computes as if there were no slot."""
        return self.pack.adds_at(self.module)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Return the output `[..., outputs]` with what the jobs add. None: nothing is added.

        Raises:
            UserError: The module gets tokens without their rows, as the experts of a mixture do.
        """
        if not self.used:
            return None
        if inputs[0].dim() < 3:
            raise UserError(
                f"Module {self.module} sees single tokens, not rows, so that jobs cannot be told apart: leave it out of target_modules."
            )
        return self.pack.add(self.module, inputs[0], output).to(output.dtype)


def adds_at(module: nn.Module) -> bool:
    """Tell whether a job of the running pass adds at a linear module."""
    return any(isinstance(hook, LinearSlot) and hook.used for hook in module._forward_hooks.values())
