"""Gradient checkpointing that knows its pass: a layer is computed again only while the pass that it belongs to is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from scalearn.errors import UserError


@dataclass
class PassNumber:
    """Which pass through the backbone is loaded."""

    value: int = 0

    def checkpoint(self, keep_inputs: Callable[..., Any], layer: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Run a layer by `keep_inputs`, the library's checkpoint function, which runs it again in the backward pass.

        Raises:
            UserError: In the backward pass, if another pass has been loaded: its rows and random streams would be taken for this one's.
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
    """Lets every layer of a model whose gradient checkpointing was just turned on look at the number of the pass."""
    for module in model.modules():
        if (library := getattr(module, "_gradient_checkpointing_func", None)) is not None:
            module._gradient_checkpointing_func = partial(number.checkpoint, library)  # type: ignore[assignment]
