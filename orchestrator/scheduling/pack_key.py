"""What jobs must have in common to train in one pack. Pure Python."""

from collections.abc import Callable, Hashable

from orchestrator.definition.graph import Job
from orchestrator.scheduling.cost import packable
from orchestrator.scheduling.task_sizes import Size, size_of
from scalearn.config import DataConfig


def pack_key(job: Job, size: Callable[[DataConfig], Size] = size_of) -> Hashable:
    """Return what jobs must have in common to train in one pack.

    All jobs of a pack share the backbone and the precision. Jobs of the second stage also share their target and their sources' tasks,
    so that a batch has one length. The sources themselves may differ: the target's own source was trained on as many rows as the job has.
    Jobs of the first stage only need rows of similar length, since a pack is padded to its longest row. Method, settings, learning rate,
    seed and few-shot subset may differ.
    """
    config = job.config
    optimisation = config.optimisation
    if not packable(config.method):
        return job.node
    common = (config.stage, config.backbone_origin, optimisation.precision, optimisation.batch_size)
    if config.stage != "transfer":
        return (*common, max(length_class(size(data).padded) for data in config.data))
    rows = tuple((data.task, data.origin, data.template, data.max_length) for data in config.data)
    steps = (optimisation.epochs, optimisation.max_steps, optimisation.evaluate_every)
    sources = tuple(parent.config.task for parent in job.parents if parent.config.stage == "source")
    return (*common, rows, steps, config.sources, sources, config.external)


def length_class(tokens: float) -> int:
    """Return a number that inputs of similar length share. Lengths in one class differ by less than a quarter."""
    bound, number = 16.0, 0
    while tokens > bound:
        bound, number = bound * 1.25, number + 1
    return number
