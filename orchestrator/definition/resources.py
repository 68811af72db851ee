"""What a trial needs and what nodes hold, by Ray's names: whether a job fits at all, and how many fit at a time. Pure Python."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from orchestrator.definition.schema import Resources
from scalearn.errors import UserError

Shape = Mapping[str, float]
"""Amounts by Ray's names: `CPU`, `GPU`, `memory` in bytes, a custom resource, `accelerator_type:A100`."""

RESERVED = ("CPU", "GPU", "memory", "object_store_memory", "bundle", "node")
"""Names that Ray reserves. A custom resource must have another name."""
ACCELERATOR = "accelerator_type:"
_TRACE = 0.001
"""The amount that Ray itself asks of a node's accelerator type, which is a condition and is not used up."""


def shape_of(resources: Resources, gpu: float = 0.0) -> dict[str, float]:
    """Return what Ray sets aside for one trial.

    Args:
        resources: The resources, as the sweep file states them.
        gpu: GPUs of a trial for which the file states none: `default_gpu`, or 0 for a cluster without GPUs.
    """
    shape = {
        "CPU": resources.cpu,
        "GPU": gpu if resources.gpu is None else resources.gpu,
        "memory": float(resources.memory or 0),
        **resources.custom,
    }
    if resources.accelerator_type is not None:
        shape[f"{ACCELERATOR}{resources.accelerator_type}"] = _TRACE
    return {name: amount for name, amount in shape.items() if amount > 0}


def placement_of(shape: Shape) -> Hashable:
    """Return a key of trials with equal shape. One pack is placed once, and a worker takes packs of its own placement."""
    return tuple(sorted(shape.items()))


def devices_of(shape: Shape) -> float:
    """Return how many devices a trial has: its GPUs, or its part of one. A trial without a GPU counts as one device."""
    return shape.get("GPU") or 1.0


def default_gpu(nodes: Iterable[Shape]) -> float:
    """Return the GPUs of a trial whose sweep file states none: 1 if any node has one, else 0."""
    return 1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0


def count_fitting(nodes: Iterable[Shape], shape: Shape) -> int:
    """Return how many trials of a shape the nodes hold at a time. A trial runs on one node."""
    return sum(_fits(node, shape) for node in nodes)


def check_placeable(nodes: Sequence[Shape], shape: Shape, job: str) -> None:
    """Refuse a job that no node can hold, since it would wait for ever.

    Args:
        nodes: Total resources of each node of the cluster.
        shape: The resources that the job needs.
        job: What the sentence calls the job.

    Raises:
        UserError: No node can hold the job. The sentence says what is missing.
    """
    if any(_fits(node, shape) for node in nodes):
        return
    advice = "lower `resources` in the sweep file, or use a larger cluster"
    without = {name: amount for name, amount in shape.items() if name != "GPU"}
    if without != shape and any(_fits(node, without) for node in nodes):
        advice += "; `gpu: 0` keeps the job on CPUs"
    raise UserError(f"{job} {lack(nodes, shape)}: {advice}.")


def _fits(node: Shape, shape: Shape) -> int:
    return min(math.floor(node.get(name, 0.0) / amount + 1e-6) for name, amount in shape.items())


def lack(nodes: Sequence[Shape], shape: Shape) -> str:
    """Return why no node can hold a shape: `needs 1 GPU and the cluster has 0`."""
    for name, amount in shape.items():
        total = sum(node.get(name, 0.0) for node in nodes)
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if name.startswith(ACCELERATOR) and not total:
            there = sorted({key.removeprefix(ACCELERATOR) for node in nodes for key in node if key.startswith(ACCELERATOR)})
            return f"needs an accelerator of type {name.removeprefix(ACCELERATOR)} and the cluster has {', '.join(there) or 'none'}"
        if total < amount:
            return f"needs {_show(name, amount)} and the cluster has {_show_amount(name, total)}"
        if largest < amount:
            return f"needs {_show(name, amount)} on one node and the largest has {_show_amount(name, largest)}"
    return f"needs {' and '.join(_show(name, amount) for name, amount in shape.items())} on one node, and no node has them together"


def _show(name: str, amount: float) -> str:
    if name.startswith(ACCELERATOR):
        return f"an accelerator of type {name.removeprefix(ACCELERATOR)}"
    return f"{_show_amount(name, amount)} {'of ' if name == 'memory' else ''}{name}"


def _show_amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.3g} GiB" if name == "memory" else f"{amount:g}"
