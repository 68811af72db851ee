"""Gradient checkpointing that checks the pass: a layer is computed again only while its own pass is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from scalearn.errors import UserError


@dataclass
class PassNumber:
    """The number of the pass through the backbone that is loaded."""

    value: int = 0

    def checkpoint(self, keep_inputs: Callable[..., Any], layer: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Run a layer by `keep_inputs`, the library's checkpoint function, which runs the layer again in the backward pass.

        Raises:
            UserError: Raised in the backward pass if another pass has been loaded, since its rows and random streams would be used.
        """
        own = self.value

        def of_this_pass(*given: Any, **named: Any) -> Any:
            if self.value != own:
                raise UserError(
                    "With gradient checkpointing a backbone was used again before the backward pass of the last use: call backward "
                    "first, or load the backbone without gradient_checkpointing."
                )
            return layer(*given, **named)

        return keep_inputs(of_this_pass, *inputs, **options)


def tell_passes_apart(model: nn.Module, number: PassNumber) -> None:
    """Make every layer of a model check the number of the pass. The model's gradient checkpointing was just turned on."""
    for module in model.modules():
        if (library := getattr(module, "_gradient_checkpointing_func", None)) is not None:
            module._gradient_checkpointing_func = partial(number.checkpoint, library)  # type: ignore[assignment]
