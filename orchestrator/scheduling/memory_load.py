"""Whether a device's memory can hold jobs together: what a pack takes of it, member by member. Pure Python."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

from orchestrator.definition.graph import Job
from orchestrator.scheduling.cost import Estimate

DOUBT_SECONDS = 24 * 3600.0
"""How long packs stay smaller after one that did not fit. Another user's process may have held the memory, so the limit must end; each new
attempt costs a step made twice, so it must not end soon."""


@dataclass(frozen=True)
class Limit:
    """What is known of a device after a pack did not fit."""

    tokens: float
    """Tokens of a step that fits."""
    until: float
    """When the limit is forgotten, in seconds on the clock of the policy's caller."""


@dataclass(frozen=True)
class Load:
    """The memory that a pack takes of its device. An empty pack takes nothing and has room for all."""

    jobs: int = 0
    most: float = math.inf
    """The most jobs in a pack that still saves time, for each of its jobs."""
    rows: int = 0
    longest: float = 0.0
    """Tokens that every row is padded to."""
    per_token: float = 0.0
    """Bytes that one more token in every row takes."""
    own: float = 0.0
    """Bytes that the jobs themselves take."""
    fixed: float = 0.0
    per_stack: float = 0.0
    stacks: frozenset[Hashable] = frozenset()
    """Sets of source adapters that jobs of the pack stack. Each set is held once."""
    room: float = math.inf
    """Bytes that the pack may take."""

    def plus(self, estimate: Estimate, stack: Hashable) -> "Load":
        """Return the load after one more job has joined.

        Args:
            estimate: The job's estimate.
            stack: The job's source adapters (`stack_of`).
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
        """Bytes that the pack takes of the device."""
        return self.fixed + self.per_stack * len(self.stacks) + self.own + self.per_token * self.longest

    @property
    def fits(self) -> bool:
        """Whether the device holds the pack, and the pack is no larger than was measured to save time for each of its jobs."""
        return self.jobs <= self.most and self.bytes <= self.room


def stack_of(job: Job) -> Hashable:
    """Return a key for the source adapters that a job holds on the device. None: it has none."""
    if not job.config.sources:
        return None
    return tuple(parent.node for parent in job.parents if parent.config.stage == "source"), job.config.external
