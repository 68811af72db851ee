"""What a job costs, known before it runs: seconds = worker start + steps x (fixed + jobs + tokens) + evaluation, from a profile."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.definition.graph import Job
from orchestrator.profiling.profile import Pace, Profile, Rates
from orchestrator.scheduling.task_sizes import Size, size_of
from scalearn.config import DataConfig, OptimisationConfig, Stage
from scalearn.methods.registry import METHODS

if TYPE_CHECKING:
    from orchestrator.definition.sweep import Sweep

_EVALUATION_ROWS = 64
"""Rows of one job in one pass of an evaluation."""

_FULL_BACKWARD = 1.5
"""A backbone that learns also computes the gradients of its weights: three products per weight and token instead of two."""


@dataclass(frozen=True)
class Memory:
    """What one trial has of a device's memory, and what the jobs of one stage, method, backbone and precision take of it."""

    device: str
    """The device's name, as the device reports it."""
    total: float
    """Bytes that a trial may use."""
    fixed: float
    """Bytes that a pack holds once: the backbone."""
    per_token: float
    """Bytes that a padded token of a training batch holds."""
    per_job: float
    """Bytes that each job holds, however small its batch: parameters, gradients, the optimiser's moments, the best parameters."""
    per_stack: float = 0.0
    """Bytes that a pack holds once for every set of source adapters that its jobs stack."""


@dataclass(frozen=True)
class Estimate:
    """The expected course of one job, alone or in a pack. Jobs of the same data, optimisation and kind of method share one object."""

    steps: int
    """Optimiser steps if no job stops early. With a patience, this is an upper bound."""
    rows: int
    """Rows per step that go through the backbone."""
    tokens: float
    """Tokens per row of a training batch. On a CPU they are real ones. Elsewhere rows are padded to the longest of the batch."""
    longest: float
    """Tokens per row of the longest batch, padded to the longest row of all jobs. It decides whether a pack fits."""
    evaluations: int
    validation_tokens: float
    validation_passes: int
    test_tokens: float
    test_passes: int
    train: Pace
    evaluate: Pace
    around: float
    """Seconds before, between and after training and evaluation."""
    seconds: float
    """Duration of the job alone on a warm worker."""
    largest_pack: int
    """How many such jobs may share a pack: all of them fit the device, and packing them saves time."""
    most: int
    """How many such jobs packing saves time for, whether they fit or not. 1 for a method that shares no pass."""
    memory: Memory
    room: float
    """Bytes that a pack may fill."""
    takes_turns: bool
    """Whether the jobs of a pack go through the backbone one after the other. Otherwise they are padded to the longest row of all."""

    @property
    def passes(self) -> int:
        """Passes of all validations, which the jobs of a pack share."""
        return self.evaluations * self.validation_passes


class CostModel:
    """The durations of jobs and packs on one kind of device."""

    def __init__(
        self,
        profile: Profile,
        *,
        pack: int | None = None,
        memory_share: float = 0.9,
        measured: Mapping[tuple[str, str], Memory] = MappingProxyType({}),
        part: Callable[[Stage, str], float] = lambda stage, method: 1.0,
        root: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            profile: The device's speeds.
            pack: The most jobs in a pack. None: as many as fit and as save time.
            memory_share: Share of the device's memory that a pack may fill.
            measured: Memory that jobs of this very backbone take, by stage and method. For other jobs it is reckoned from the profile.
            part: Returns, by stage and method, the part of a device that a trial has. It holds for the memory, and for the speed on tokens,
                since packs that share a device compute in turn.
            root: Directory of local data, whose rows are counted.
        """
        self.profile, self.root = profile, root
        self._pack = pack
        self._memory_share = memory_share
        self._measured = measured
        self._part = part
        self._estimate = lru_cache(maxsize=None)(self._fresh_estimate)

    def with_memory(self, measured: Mapping[tuple[str, str], Memory]) -> "CostModel":
        """Return the same cost model with packs that fit a measured device."""
        return CostModel(self.profile, pack=self._pack, memory_share=self._memory_share, measured=measured, part=self._part, root=self.root)

    def size(self, data: DataConfig) -> Size:
        """Return how much of a task a job reads."""
        return size_of(data, self.root)

    @property
    def measures_packs(self) -> bool:
        """Whether the device's memory decides how many jobs are packed."""
        return self._pack is None

    @property
    def worker_seconds(self) -> float:
        """Seconds to start a worker process and load its first backbone."""
        return self.profile.worker_seconds + max(rates.load_seconds for rates in self.profile.rates)

    def estimate(self, job: Job) -> Estimate:
        """Return the expected course of a job."""
        config = job.config
        return self._estimate(config.data, config.optimisation, config.stage, config.method, config.backbone, config.stacked)

    def seconds(self, pack: Sequence[Estimate]) -> float:
        """Return the duration of a pack on a warm worker. Each job leaves after its last step, and the others go on without its rows."""
        if len(pack) == 1:
            return pack[0].seconds
        members = sorted(pack, key=lambda member: member.steps)
        total, done = sum(member.around + _test_seconds(member) for member in members), 0
        for first, member in enumerate(members):
            steps = member.steps - done
            if steps:
                total += steps * _step_seconds(members[first:])
                done = member.steps
        return total + _validation_seconds(members)

    def _fresh_estimate(
        self, data: tuple[DataConfig, ...], optimisation: OptimisationConfig, stage: Stage, method: str, backbone: str, sources: int
    ) -> Estimate:
        rates, factor = self.profile.of(backbone, self.profile.resolved(optimisation.precision))
        part = self._part(stage, method)
        train, evaluate = (_pace(rates, method, sources, factor, training=training) for training in (True, False))
        train, evaluate = (replace(pace, per_token=pace.per_token / part) for pace in (train, evaluate))
        sizes = [self.size(one) for one in data]
        steps = total_steps(sizes, optimisation)
        rows = optimisation.batch_size * max(size.inputs for size in sizes)
        every = optimisation.evaluate_every or max(1, math.ceil(sum(size.train for size in sizes) / optimisation.batch_size))
        validation = _evaluation(sizes, [size.validation for size in sizes])
        test = _evaluation(sizes, [size.test for size in sizes])
        # A joint job draws its tasks in proportion to their size.
        turns = self.profile.takes_turns
        lengths = [size.length if turns or optimisation.group_by_length else size.padded for size in sizes]
        counts = [size.joint or size.train for size in sizes]
        tokens = sum(length * count for length, count in zip(lengths, counts, strict=True)) / sum(counts)
        longest = float(max(one.max_length for one in data))
        memory = self._measured.get((stage, method)) or _reckoned(self.profile, rates, factor, part)
        room = memory.total * self._memory_share
        most = 1 if not packable(method) else train.largest_pack if self._pack is None else self._pack
        each = memory.per_token * rows * longest + memory.per_job
        fits = (room - memory.fixed - (memory.per_stack if sources else 0.0)) / each if each else math.inf
        largest = max(1, int(min(fits, most)))
        evaluations = math.ceil(steps / every)
        around = rates.job_seconds
        alone = Estimate(
            steps, rows, tokens, longest, evaluations, *validation, *test, train, evaluate, around, 0.0, largest, most, memory, room, turns
        )
        seconds = alone.around + _test_seconds(alone) + steps * _step_seconds([alone]) + _validation_seconds([alone])
        return replace(alone, seconds=seconds)


def cost_of(sweep: "Sweep", profile: Profile) -> CostModel:
    """Return the cost model of a sweep. A run and a plan use the same one."""

    def part(stage: Stage, method: str) -> float:
        return min(1.0, sweep.resources.of(stage, method).gpu or 1.0)

    root = None if sweep.data.root is None else Path(sweep.data.root).expanduser().absolute()
    return CostModel(profile, pack=sweep.packing.limit, memory_share=sweep.packing.memory_share, part=part, root=root)


def _reckoned(profile: Profile, rates: Rates, factor: float, part: float) -> Memory:
    """Return what the profile says of a backbone whose work per token differs from the measured one's by a factor."""
    # Wider models hold more per token: about the square root of the work, since work grows with the square of the width.
    per_token = rates.bytes_per_token * math.sqrt(factor)
    return Memory(profile.device, profile.memory_bytes * part, rates.fixed_bytes * factor, per_token, 0.0)


def packable(method: str) -> bool:
    """Tell whether a method's jobs may share a pass. Joint jobs may not, nor may jobs that change the backbone itself."""
    known = METHODS.get(method)
    return known is not None and not known.owns_backbone and known.stage in ("source", "transfer", "single")


def total_steps(sizes: Sequence[Size], optimisation: OptimisationConfig) -> int:
    """Return how many optimiser steps a job makes if it does not stop early."""
    per_epoch = math.ceil(sum(size.train for size in sizes) / optimisation.batch_size)
    steps = per_epoch * optimisation.epochs
    return steps if optimisation.max_steps is None else min(steps, optimisation.max_steps)


def _pace(rates: Rates, method: str, sources: int, factor: float, *, training: bool) -> Pace:
    table = rates.train if training else rates.evaluate
    known = METHODS.get(method)
    key = method if method in table else "scalearn" if sources and "scalearn" in table else "adapter"
    pace = table[key]
    # Without gradients in the backbone, a step goes through it as an evaluation does.
    tokens = {each: rate.per_token for each, rate in (rates.evaluate if known is not None and known.learns_only_head else table).items()}
    scale = factor * (_FULL_BACKWARD if training and known is not None and known.owns_backbone else 1.0)
    if key != "adapter" and sources:
        # Each source adds its share of the difference from a single adapter.
        extra = max(0.0, tokens[key] - tokens["adapter"]) / rates.sources
        token = tokens[key] + extra * (sources - rates.sources)
    else:
        token = tokens[key]
    # A deeper backbone launches more of everything. The width does not change how much is launched.
    return Pace(pace.fixed * max(1.0, math.sqrt(factor)), pace.per_job * max(1.0, math.sqrt(factor)), token * scale, pace.largest_pack)


def _evaluation(sizes: Sequence[Size], rows: Sequence[int]) -> tuple[float, int]:
    """Return the tokens and passes of one evaluation. Rows are taken in order of length, so padding hardly counts."""
    tokens = sum(count * size.inputs * size.length for size, count in zip(sizes, rows, strict=True))
    return tokens, sum(math.ceil(count / _EVALUATION_ROWS) for count in rows)


def _step_seconds(members: Sequence[Estimate]) -> float:
    longest = max(member.tokens for member in members)
    slowest = max((member.train for member in members), key=lambda pace: pace.per_token)
    lengths = [member.tokens if member.takes_turns else longest for member in members]
    slower = [member.train.per_token / slowest.per_token for member in members]
    tokens = sum(member.rows * length * factor for member, length, factor in zip(members, lengths, slower, strict=True))
    return slowest.seconds(len(members), tokens)


def _validation_seconds(members: Sequence[Estimate]) -> float:
    tokens = sum(member.evaluations * member.validation_tokens * member.evaluate.per_token for member in members)
    passes = max(member.passes * member.evaluate.fixed for member in members)
    return tokens + passes + sum(member.passes * member.evaluate.per_job for member in members)


def _test_seconds(member: Estimate) -> float:
    """Return the seconds of a job's test, which it does alone, with its best parameters."""
    pace = member.evaluate
    return member.test_tokens * pace.per_token + member.test_passes * (pace.fixed + pace.per_job)
