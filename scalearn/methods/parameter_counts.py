"""How many parameters every method learns on a backbone, counted without loading any weights."""

from dataclasses import replace
from typing import get_args

from scalearn.backbone.linear_modules import kind_of, linear_modules, matching, usual_targets
from scalearn.backbone.registry import Shape
from scalearn.methods import counts
from scalearn.methods.registry import METHODS, Family, Method, runs_on

Counts = dict[str, int]
"""`transfer`: parameters that the method learns on top of its sources. `source`: those of the adapters that it builds on or, for a method
without sources, of its own adapter. `head`: those of the prediction heads."""


def method_counts(
    method: Method, shape: Shape, *, sources: int, labels: int = 2, reduction_factor: float = 16, lora_rank: int | None = None
) -> Counts | None:
    """Count one method's parameters, as its model would have them.

    Args:
        method: Entry of the registry.
        shape: Shape of the backbone.
        sources: Number of source adapters T. For a joint method, the number of tasks, each with its own head.
        labels: Outputs of a head.
        reduction_factor: Reduction factor of every bottleneck: the sources', and the method's own if it has one.
        lora_rank: Rank of every LoRA, at its usual modules: the sources', and that of method `lora`. None: the sources are bottlenecks.

    Returns:
        The counts. None: there is no formula for the method on this backbone, or it cannot combine such sources.
    """
    if method.count is None or not runs_on(method, "adapter" if lora_rank is None else "lora", shape.architecture):
        return None
    if method.needs_sources and lora_rank is not None:
        return _on_loras(method, shape, sources, labels, lora_rank)
    reduction = {"reduction_factor": reduction_factor}
    own = dict(reduction) if "reduction_factor" in method.rules or method.needs_sources else {}
    if method.key == "lora" and lora_rank is not None:
        own["rank"] = lora_rank
    learned = method.count(shape, sources, {**method.settings, **own})
    if learned is None:
        return None
    heads = head(shape, labels) * (sources if method.family == "joint" else 1)
    if not method.needs_sources:
        return {"transfer": 0, "source": learned, "head": heads}
    return {"transfer": learned, "source": sources * counts.bottleneck(shape, sources, reduction), "head": heads}


def _on_loras(method: Method, shape: Shape, sources: int, labels: int, rank: int) -> Counts | None:
    """Count a method on LoRAs. Each kind of module, such as the queries, has omegas as one set of adapters would have."""
    one = counts.lora(shape, 0, {**METHODS["lora"].settings, "rank": rank})
    known = linear_modules(shape)
    if one is None or known is None or method.count is None or not method.takes_lora:
        return None
    side = 0 if method.count is counts.gates else 1  # a gate reads the inputs, an omega scales the outputs
    sizes = {kind_of(name): known[name][side] for name in matching(known, usual_targets(known))}
    each = [method.count(replace(shape, hidden_size=size), sources, method.settings) or 0 for size in sizes.values()]
    whole: dict[counts.Count, int] = {counts.bottleneck: one, counts.side_by_side: sources * one, counts.per_source: sources}
    learned = whole.get(method.count, sum(each))
    return {"transfer": learned, "source": sources * one, "head": head(shape, labels)}


def all_counts(
    shape: Shape, *, sources: int, labels: int = 2, reduction_factor: float = 16, lora_rank: int | None = None
) -> dict[str, Counts]:
    """Count every method of the registry that has a formula on this backbone, by method key in the order of tables."""
    # In the groups and order of tables. A package's method may have a family that tables do not know.
    ordered = sorted(
        METHODS.values(), key=lambda method: ((*get_args(Family), method.family).index(method.family), method.order, method.key)
    )
    counted = {
        method.key: method_counts(method, shape, sources=sources, labels=labels, reduction_factor=reduction_factor, lora_rank=lora_rank)
        for method in ordered
    }
    return {key: each for key, each in counted.items() if each is not None}


def head(shape: Shape, labels: int) -> int:
    """Count the classification head, a dense layer of hidden size d and a linear layer on it: `d^2 + d + labels (d + 1)`."""
    return shape.hidden_size**2 + shape.hidden_size + labels * (shape.hidden_size + 1)
