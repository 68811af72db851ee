"""The schedule of the learning rate over a job's steps."""

from collections.abc import Sequence

from scalearn.config import OptimisationConfig
from scalearn.passes.batches import steps_per_epoch


def total_steps(optimisation: OptimisationConfig, sizes: Sequence[int]) -> int:
    """Return the step after which the job ends if it does not stop early."""
    steps = optimisation.epochs * steps_per_epoch(sizes, optimisation.batch_size)
    return steps if optimisation.max_steps is None else min(steps, optimisation.max_steps)


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Return the share of the learning rate at a step, counted from 0: a linear rise over the warm-up, then a linear fall to 0."""
    rising = int(warmup * total)
    if step < rising:
        return step / max(1, rising)
    return max(0.0, (total - step) / max(1, total - rising))
