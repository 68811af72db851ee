"""Measure this device for a profile: real packs of made-up rows, through the training function itself."""

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from scipy.optimize import nnls

from orchestrator.profiling.deadline import ESSENTIAL, SECONDS, Deadline, Extent, take
from orchestrator.profiling.profile import Pace, Profile, Rates
from scalearn.backbone.device import resolve_precision
from scalearn.backbone.encoder import load_encoder
from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig, OptimisationConfig, Precision
from scalearn.errors import UserError
from scalearn.methods.registry import get_method
from scalearn.tasks import definition_of, own_task
from scalearn.training.loop import train
from scalearn.training.memory import bytes_per_row
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime

SOURCES = 8
BATCH = 32
METHODS = (*ESSENTIAL, "adapterfusion")

_TASK = "profile/rows"
_EVALUATION_ROWS = 64


_QUICK = Extent(lengths=(32, 64), packs=(1, 2), methods=ESSENTIAL, steps=1, rounds=1)
_EXTENTS = {
    "cpu": Extent(lengths=(32, 128), packs=(1, 2, 4), methods=METHODS, steps=2, rounds=2),
    "cuda": Extent(lengths=(64, 128), packs=(1, 4, 16, 32), methods=METHODS, steps=20, rounds=2),
}


@dataclass(frozen=True)
class MeasuredPack:
    """The measurement of one pack."""

    jobs: int
    rows: int
    """Rows per job."""
    length: int
    step_seconds: float
    evaluation_seconds: float
    """Seconds per job for 128 rows of validation and test together."""
    around_seconds: float
    """Seconds per job outside training and evaluation, without loading the backbone."""


class Bench:
    """A directory with made-up rows and source adapters, and the packs that are run on it."""

    def __init__(
        self,
        folder: Path,
        backbone: str,
        precision: Precision,
        device: str,
        threads: int | None,
        *,
        most_steps: int = 32,
        adapter: Path | None = None,
    ) -> None:
        """Write the rows.

        Args:
            folder: An empty directory.
            backbone: Registered name or local directory.
            precision: Precision, as in a sweep.
            device: Device, as in `Runtime.device`.
            threads: CPU threads of the worker.
            most_steps: The most steps of one pack, for which there are rows.
            adapter: The directory used for every source adapter. None: one is trained for a step when it is needed.
        """
        self.folder, self.backbone, self.precision = folder, get_backbone(backbone), precision
        self.runtime = Runtime(data_root=folder / "data", cache=folder / "cache", device=device, threads=threads, checkpoint_seconds=1e9)
        self.load_seconds = 0.0
        self._numbers = itertools.count()
        self.adapter = adapter
        definition = {"columns": "text", "labels": ["no", "yes"], "splits": {"train": "train", "validation": "validation", "test": "test"}}
        self._own = definition_of(own_task(_TASK, definition))
        place = folder / "data" / _TASK
        place.mkdir(parents=True)
        for split, rows in (("train", BATCH * most_steps), ("validation", _EVALUATION_ROWS), ("test", _EVALUATION_ROWS)):
            # All rows differ, and each is longer than any length that is measured.
            texts = [f"number {number} " + "so " * 512 for number in range(rows)]
            table = pyarrow.table({"text": texts, "label": [number % 2 for number in range(rows)]})
            pyarrow.parquet.write_table(table, place / f"{split}.parquet")

    def run(self, method: str, jobs: int, length: int, steps: int, rows: int = BATCH) -> MeasuredPack:
        """Train one pack of equal jobs with different seeds."""
        pack = [self._member(method, seed, length, steps, rows) for seed in range(jobs)]
        began, busy = time.monotonic(), time.process_time()
        outcomes = train(pack, self.runtime, lambda member, record: None)
        wall = time.monotonic() - began
        # Processor time that other processes took must not count as slowness of the device.
        own = min(1.0, (time.process_time() - busy) / wall) if self.runtime.device == "cpu" and self.runtime.threads == 1 else 1.0
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors:
            raise UserError(f"The measurement failed: {errors[0]}")
        results = [_result(member.directory) for member in pack]
        if any(result["steps"] != steps for result in results):
            raise UserError(f"The measurement failed: there are rows for fewer than {steps} steps of {rows} rows.")
        timings = [result["timing"] for result in results]
        training, evaluation = (sum(timing[name] for timing in timings) for name in ("train_seconds", "evaluate_seconds"))
        if self.adapter is None and method == "adapter":
            self.adapter = pack[0].directory
        around = wall - training - evaluation
        return MeasuredPack(jobs, rows, length, own * training / steps, own * evaluation / jobs, own * around / jobs)

    def job(self, method: str, seed: int, length: int, steps: int, rows: int = BATCH) -> JobConfig:
        """Return a job of a method on the made-up rows."""
        known = get_method(method)
        sources = tuple(f"source{number}" for number in range(SOURCES)) if known.needs_sources else ()
        return JobConfig(
            benchmark="profile",
            stage=known.stage,
            method=method,
            data=(DataConfig(_TASK, "made-up", train_rows=rows * steps, max_length=length, own=self._own),),
            backbone=self.backbone.name,
            backbone_origin=self.backbone.origin,
            optimisation=OptimisationConfig(learning_rate=1e-4, batch_size=rows, epochs=1, precision=self.precision),
            seed=seed,
            sources=sources,
            settings=known.settings,
        )

    def _member(self, method: str, seed: int, length: int, steps: int, rows: int) -> PackMember:
        config = self.job(method, seed, length, steps, rows)
        if config.sources and self.adapter is None:
            self.run("adapter", 1, 16, 1)
        directory = self.folder / "jobs" / str(next(self._numbers))
        directory.mkdir(parents=True)
        parents = dict.fromkeys(config.sources, self.adapter) if self.adapter else {}
        return PackMember(config, directory, parents)


def measure_rates(bench: Bench, device: str, extent: Extent, deadline: Deadline) -> tuple[Rates, tuple[str, ...]]:
    """Measure one backbone in one precision, and return also what there was no time for.

    Args:
        bench: The directory to measure in.
        device: `cpu` or `cuda`.
        extent: What to measure.
        deadline: When to be done.
    """
    resolved = resolve_precision(bench.precision, torch.device(device))
    train_paces, evaluate_paces, around = {}, {}, []
    began = time.monotonic()
    bench.run("adapter", 1, extent.lengths[0], 1)
    load_seconds = time.monotonic() - began
    encoder = load_encoder(bench.backbone, device=device)
    longest = extent.lengths[-1]
    memory = bytes_per_row(encoder, bench.job("adapter", 0, longest, 1), longest) / longest
    weights = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    taken = take(bench.run, extent, deadline)
    for method, rounds in taken.points.items():
        points = [_fastest(measured) for measured in rounds]
        train_paces[method] = fit_pace(points)
        evaluate_paces[method] = _fit_evaluation(points)
        around += [point.around_seconds for point in points if point.jobs == 1]
    around_job = float(np.median(around))
    rates = Rates(
        bench.backbone.name,
        resolved,
        round(around_job, 3),
        round(max(0.0, load_seconds - around_job), 3),
        round(memory, 1),
        float(weights),
        train_paces,
        evaluate_paces,
        SOURCES,
    )
    return rates, taken.left_out


def fit_pace(points: Sequence[MeasuredPack]) -> Pace:
    """Fit the line of a step through measured packs, with no negative part.

    The largest pack is the smallest one whose jobs each take at most 3 % more of the device than in the best pack.
    """
    design = np.array([[1.0, point.jobs, point.jobs * point.rows * point.length] for point in points])
    seconds = np.array([point.step_seconds for point in points])
    # Relative errors count, and columns of similar size keep the fit well-conditioned.
    scale = design.max(axis=0)
    (fixed, per_job, per_token), _ = nnls(design / scale / seconds[:, None], np.ones(len(points)))
    shortest = min(point.length for point in points)
    shares = {point.jobs: point.step_seconds / point.jobs for point in points if point.length == shortest}
    best = min(shares.values())
    largest = min(jobs for jobs, share in shares.items() if share <= 1.03 * best)
    measured = tuple((point.jobs, point.rows, point.length, round(point.step_seconds, 5)) for point in points)
    fixed, per_job, per_token = (float(value) for value in np.array([fixed, per_job, per_token]) / scale)
    return Pace(_short(fixed), _short(per_job), max(_short(per_token), 1e-12), largest, measured)


def _fit_evaluation(points: Sequence[MeasuredPack]) -> Pace:
    """Fit the line of an evaluation pass of 64 rows. Half of the measured rows are for validation, whose passes a pack shares."""
    alone = [point for point in points if point.jobs == 1]
    passes, rows = 2 * _EVALUATION_ROWS / 64, 2 * _EVALUATION_ROWS
    lengths = np.array([point.length for point in alone], dtype=float)
    seconds = np.array([point.evaluation_seconds for point in alone])
    slope, start = np.polyfit(lengths, seconds, 1)
    per_token, fixed = max(slope / rows, 1e-12), max(0.0, start / passes)
    measured = tuple((1, 64, point.length, round(point.evaluation_seconds / passes, 5)) for point in alone)
    return Pace(_short(fixed), 0.0, _short(per_token), 1, measured)


def measure_profile(
    backbones: Sequence[str],
    precisions: Sequence[Precision],
    *,
    device: str = "auto",
    threads: int | None = None,
    seconds: float = SECONDS,
    quick: bool = False,
) -> Profile:
    """Measure this device. The note of the profile says what there was no time for.

    Args:
        backbones: Registered names or local directories.
        precisions: Precisions, as in sweeps.
        device: Device, as in `Runtime.device`.
        threads: CPU threads of one worker. None: half of those that this process may use, as two workers would have.
        seconds: Time for all backbones and precisions together. Essential measurements are always made.
        quick: Fewer points, for tests.

    Raises:
        UserError: A backbone or a precision is not available.
    """
    whole = Deadline(seconds)
    device_type = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
    extent = _QUICK if quick else _EXTENTS[device_type]
    # `auto` may mean one of the other precisions.
    resolved = {resolve_precision(precision, torch.device(device_type)): precision for precision in precisions}
    wanted = list(itertools.product(dict.fromkeys(backbones), resolved.values()))
    worker_seconds = _worker_seconds()
    rates, notes = [], []
    for number, (backbone, precision) in enumerate(wanted):
        with tempfile.TemporaryDirectory(prefix="scalearn-profile-") as folder:
            bench = Bench(Path(folder), backbone, precision, device_type, threads)
            measured, left_out = measure_rates(bench, device_type, extent, whole.share(len(wanted) - number))
        rates.append(measured)
        if left_out:
            notes.append(f"; no time in {seconds:g} s for {measured.backbone} in {measured.precision}: {', '.join(left_out)}")
    return Profile(
        device=device_name(device_type),
        measured=True,
        note=f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, {threads} threads per worker, load {os.getloadavg()[0]:.1f}"
        + "".join(notes),
        memory_bytes=_memory(device_type),
        auto_precision=resolve_precision("auto", torch.device(device_type)),
        worker_seconds=worker_seconds,
        rates=tuple(rates),
    )


def device_name(device_type: str) -> str:
    """Return the device's usual name: `NVIDIA H100 80GB HBM3`, `2-core AMD EPYC CPU`."""
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))}-core {model} CPU"


def _memory(device_type: str) -> float:
    if device_type == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    # Workers share the machine's memory, and the driver needs some too.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (len(os.sched_getaffinity(0)) + 1)


def _worker_seconds() -> float:
    """Return the seconds that a new process needs until it can train."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import scalearn.training.loop"], check=True)
    return round(time.monotonic() - began, 1)


def _fastest(points: Sequence[MeasuredPack]) -> MeasuredPack:
    """Return the fastest measurement of one shape, which was disturbed least."""
    evaluation, around = (min(getattr(point, name) for point in points) for name in ("evaluation_seconds", "around_seconds"))
    step = min(point.step_seconds for point in points)
    return replace(points[0], step_seconds=step, evaluation_seconds=evaluation, around_seconds=around)


def _result(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return result


def _short(value: float) -> float:
    return float(f"{value:.4g}")
