"""How many parameters each method learns, by formula. Planning and the efficiency plot thus need no model."""

from collections.abc import Callable, Mapping

from scalearn.backbone.linear_modules import linear_modules, matching, usual_targets
from scalearn.backbone.registry import Shape
from scalearn.config import Setting
from scalearn.formats.adapter_tensors import bottleneck_width

Count = Callable[[Shape, int, Mapping[str, Setting]], int | None]
"""Returns the parameters that a job learns besides its heads, from the backbone, the number of sources T and the method's settings. None:
there is no formula for this backbone."""


def bottleneck(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one adapter of width r in every layer: `layers * (2 d r + r + d)`."""
    r = width(shape, settings)
    return shape.layers * (2 * shape.hidden_size * r + r + shape.hidden_size)


def lora(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int | None:
    """Count A and B of rank r at every target module: the sum of `r (inputs + outputs)`."""
    known, rank = linear_modules(shape), settings["rank"]
    if known is None:
        return None
    targets = settings.get("target_modules") or usual_targets(known)
    assert isinstance(targets, tuple)
    assert isinstance(rank, int)
    return sum(rank * sum(known[name]) for name in matching(known, [str(target) for target in targets]))


def omega_per_layer(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one vector per source and layer: `layers * T * d`."""
    return shape.layers * sources * shape.hidden_size


def omega_per_layer_uniform(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one scalar per source and layer: `layers * T`."""
    return shape.layers * sources


def omega_shared(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one vector per source: `T * d`."""
    return sources * shape.hidden_size


def omega_shared_uniform(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one scalar per source: `T`."""
    return sources


def gates(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one linear map from hidden size to a number per source, with bias, in every layer: `layers * T (d + 1)`."""
    return shape.layers * sources * (shape.hidden_size + 1)


def side_by_side(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one adapter of width T r in every layer: `layers * (2 d T r + T r + d)`."""
    r = sources * width(shape, settings)
    return shape.layers * (2 * shape.hidden_size * r + r + shape.hidden_size)


def fusion(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count query and key with bias, and value without, in every layer: `layers * (3 d^2 + 2 d)`."""
    return shape.layers * (3 * shape.hidden_size**2 + 2 * shape.hidden_size)


def everything(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int | None:
    """Count all of an encoder except its pooler (see `scalearn.backbone.parameters`)."""
    return shape.parameters


def compacter(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count Kronecker factors of rank 1 and biases in every layer, and 4 shared rules of 4 x 4: `layers * (3 d + 3 r) + 64`."""
    return shape.layers * 3 * (shape.hidden_size + width(shape, settings)) + 64


def ia3(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one vector on keys, values and intermediate activation of every layer: `layers * (2 d + i)`."""
    return shape.layers * (2 * shape.hidden_size + shape.intermediate_size)


def propetl(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one prototype, and two score matrices per layer: `2 d r + r + d + layers * 2 d r`."""
    d, r = shape.hidden_size, width(shape, settings)
    return 2 * d * r + r + d + shape.layers * 2 * d * r


def propetl_joint(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one prototype, and two score matrices per task and per layer after the first: `2 d r + r + d + (T + layers - 1) * 2 d r`."""
    d, r = shape.hidden_size, width(shape, settings)
    return 2 * d * r + r + d + (sources + shape.layers - 1) * 2 * d * r


def hyperformer(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count task embeddings (e), the projection (e -> h -> p) with its norm, and generating maps in every layer.

    `T e + e h + h + h p + 3 p + layers * (p + 1) (2 d r + r + 3 d)`
    """
    return _hypernetwork(shape, sources, settings, inputs=1, embeddings=sources, generators=shape.layers)


def hyperformer_shared(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count as `hyperformer`, with layer embeddings, a projection of both embeddings, and one set of generating maps.

    `(T + layers) e + 2 e h + h + h p + 3 p + (p + 1) (2 d r + r + 3 d)`
    """
    return _hypernetwork(shape, sources, settings, inputs=2, embeddings=sources + shape.layers, generators=1)


def _hypernetwork(shape: Shape, sources: int, settings: Mapping[str, Setting], *, inputs: int, embeddings: int, generators: int) -> int:
    d, r = shape.hidden_size, width(shape, settings)
    e, h, p = (int(str(settings[name])) for name in ("embedding", "hidden", "projected"))
    return embeddings * e + inputs * e * h + h + h * p + 3 * p + generators * (p + 1) * (2 * d * r + r + 3 * d)


def width(shape: Shape, settings: Mapping[str, Setting]) -> int:
    """Return the bottleneck width r on a backbone under a method's settings."""
    reduction = settings.get("reduction_factor", 16)
    assert isinstance(reduction, int | float)
    return bottleneck_width(shape.hidden_size, reduction)


def nothing(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Return 0, since only the head is learned."""
    return 0


def per_source(shape: Shape, sources: int, settings: Mapping[str, Setting]) -> int:
    """Count one number per source, whatever the sources are: `T`."""
    return sources
