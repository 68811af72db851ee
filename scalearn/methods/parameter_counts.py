"""How many parameters every method learns on a backbone, counted without loading any weights."""

from typing import get_args

from scalearn.backbone.registry import Shape
from scalearn.methods import counts
from scalearn.methods.registry import METHODS, Family, Method

Counts = dict[str, int]
"""`transfer`: parameters that the method learns on top of its sources. `source`: those of the adapters that it builds on or, for a method
without sources, of its own adapter. `head`: those of the prediction heads."""


def method_counts(method: Method, shape: Shape, *, sources: int, labels: int = 2, reduction_factor: float = 16) -> Counts | None:
    """Count one method's parameters, as its model would have them.

    Args:
        method: Entry of the registry.
        shape: Shape of the backbone.
        sources: Number of source adapters T. For a joint method, the number of tasks, each with its own head.
        labels: Outputs of a head.
        reduction_factor: Reduction factor of every bottleneck: the sources', and the method's own if it has one.

    Returns:
        The counts. None: there is no formula for the method on this backbone.
    """
    if method.count is None:
        return None
    reduction = {"reduction_factor": reduction_factor}
    own = reduction if "reduction_factor" in method.rules else {}
    learned = method.count(shape, sources, {**method.settings, **own})
    if learned is None:
        return None
    heads = head(shape, labels) * (sources if method.family == "joint" else 1)
    if not method.needs_sources:
        return {"transfer": 0, "source": learned, "head": heads}
    return {"transfer": learned, "source": sources * counts.bottleneck(shape, sources, reduction), "head": heads}


def all_counts(shape: Shape, *, sources: int, labels: int = 2, reduction_factor: float = 16) -> dict[str, Counts]:
    """Count every method of the registry that has a formula on this backbone, by method key in the order of tables."""
    # In the groups and order of tables. A package's method may have a family that tables do not know.
    ordered = sorted(
        METHODS.values(), key=lambda method: ((*get_args(Family), method.family).index(method.family), method.order, method.key)
    )
    counted = {
        method.key: method_counts(method, shape, sources=sources, labels=labels, reduction_factor=reduction_factor) for method in ordered
    }
    return {key: each for key, each in counted.items() if each is not None}


def head(shape: Shape, labels: int) -> int:
    """Count the classification head, a dense layer of hidden size d and a linear layer on it: `d^2 + d + labels (d + 1)`."""
    return shape.hidden_size**2 + shape.hidden_size + labels * (shape.hidden_size + 1)
