"""Whether jobs fit a device together: what a pack takes of its memory, member by member. Pure Python."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

from orchestrator.definition.graph import Job
from orchestrator.scheduling.cost import Estimate

DOUBT_SECONDS = 24 * 3600.0
"""How long packs stay smaller after one that did not fit: what took the memory may have been another user's process, and each new attempt
costs a step made twice."""


@dataclass(frozen=True)
class Limit:
    """What a pack that did not fit says about its device."""

    tokens: float
    """Of a step: so many fit."""
    until: float
    """Seconds on the clock of whoever asks the policy; then it is forgotten."""


@dataclass(frozen=True)
class Load:
    """A pack as its device's memory sees it. An empty one holds nothing and has room for all."""

    jobs: int = 0
    most: float = math.inf
    """The most jobs of a pack that pays for each of these."""
    rows: int = 0
    longest: float = 0.0
    """Tokens that every row is padded to."""
    per_token: float = 0.0
    """Bytes of one more token in every row."""
    own: float = 0.0
    """Bytes of the jobs themselves."""
    fixed: float = 0.0
    per_stack: float = 0.0
    stacks: frozenset[Hashable] = frozenset()
    """Sets of source adapters that some job stacks: each is held once."""
    room: float = math.inf
    """Bytes that the pack may take."""

    def plus(self, estimate: Estimate, stack: Hashable) -> "Load":
        """Return the load with one job more.

        Args:
            estimate: Of the job.
            stack: Its source adapters (`stack_of`).
        """
        memory = estimate.memory
        return Load(
            self.jobs + 1,
            min(self.most, estimate.most),
            self.rows + estimate.rows,
            max(self.longest, estimate.longest),
            self.per_token + memory.per_token * estimate.rows,
            self.own + memory.per_job,
            max(self.fixed, memory.fixed),
            max(self.per_stack, memory.per_stack),
            self.stacks if stack is None else self.stacks | {stack},
            min(self.room, estimate.room),
        )

    @property
    def tokens(self) -> float:
        """Tokens of a step, padding included."""
        return self.rows * self.longest

    @property
    def bytes(self) -> float:
        """What the pack takes of the device."""
        return self.fixed + self.per_stack * len(self.stacks) + self.own + self.per_token * self.longest

    @property
    def fits(self) -> bool:
        """Whether the device holds the pack, and no job is in a larger one than was measured to pay."""
        return self.jobs <= self.most and self.bytes <= self.room


def stack_of(job: Job) -> Hashable:
    """Return what names the source adapters that a job holds on the device; None: it has none."""
    if not job.config.sources:
        return None
    return tuple(parent.node for parent in job.parents if parent.config.stage == "source"), job.config.external
