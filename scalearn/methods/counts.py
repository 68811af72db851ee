"""How many parameters each method learns, by formula: planning and the efficiency plot need no model for it."""

from collections.abc import Callable, Mapping

from scalearn.backbones import Shape
from scalearn.config import Setting

Count = Callable[[Shape, int, Mapping[str, Setting]], int]
"""Parameters that a job learns besides its heads, given the backbone, the number of sources T and the method's settings."""


def bottleneck(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """One adapter of width r in every layer: `layers * (2 d r + r + d)`."""
    reduction = settings.get("reduction_factor", 16)
    assert isinstance(reduction, int | float)
    width = bottleneck_width(shape.hidden_size, reduction)
    return shape.layers * (2 * shape.hidden_size * width + width + shape.hidden_size)


def bottleneck_width(hidden: int, reduction: float) -> int:
    """Width r of an adapter as the adapters library computes it from a reduction factor: whole, and at least 1."""
    return max(1, int(hidden // reduction))


def omega_per_layer(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """A vector per source and layer: `layers * T * d`."""
    return shape.layers * sources * shape.hidden_size


def omega_per_layer_uniform(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """A scalar per source and layer: `layers * T`."""
    return shape.layers * sources


def omega_shared(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """A vector per source: `T * d`."""
    return sources * shape.hidden_size


def omega_shared_uniform(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """A scalar per source: `T`."""
    return sources


def fusion(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Query and key with bias, value without, in every layer: `layers * (3 d^2 + 2 d)`."""
    return shape.layers * (3 * shape.hidden_size**2 + 2 * shape.hidden_size)


def nothing(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Only the head is learned."""
    return 0
