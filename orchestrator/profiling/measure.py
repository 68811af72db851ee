"""Measure this device for a profile: real packs of made-up rows, through the training function itself."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from orchestrator.profiling.deadline import ESSENTIAL, SECONDS, Deadline, Extent, take
from orchestrator.profiling.fit import EVALUATION_ROWS, MeasuredPack, fit_paces
from orchestrator.profiling.profile import Profile, Rates
from scalearn.backbone.device import device_memory, device_name, resolve_precision
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

_BENCHMARK = "profile"


_QUICK = Extent(lengths=(32, 64), packs=(1, 2), methods=ESSENTIAL, steps=1, rounds=1)
_EXTENTS = {
    "cpu": Extent(lengths=(8, 64), packs=(1, 2, 4), methods=METHODS, steps=4, rounds=2),
    "cuda": Extent(lengths=(64, 128), packs=(1, 4, 16, 32), methods=METHODS, steps=20, rounds=2),
}


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
        """Begin without rows.

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
        self.most_steps = most_steps

    def _data(self, length: int, rows: int) -> DataConfig:
        """Return data of rows with a mean length, and write it if it is not there. Where rows need no padding, their lengths differ."""
        task = f"{_BENCHMARK}/rows{length}"
        definition = {"columns": "text", "labels": ["no", "yes"], "splits": {"train": "train", "validation": "validation", "test": "test"}}
        place = self.folder / "data" / task
        if not place.exists():
            place.mkdir(parents=True)
            for split, count in (("train", BATCH * self.most_steps), ("validation", EVALUATION_ROWS), ("test", EVALUATION_ROWS)):
                lengths = [length if self.runtime.device != "cpu" else length // 2 + number % (length + 1) for number in range(count)]
                # Beside its words, a row has the first token, the last one, and a number, so that all rows differ.
                texts = [f"{number} " + "so " * (tokens - 3) for number, tokens in enumerate(lengths)]
                table = pyarrow.table({"text": texts, "label": [number % 2 for number in range(count)]})
                pyarrow.parquet.write_table(table, place / f"{split}.parquet")
        return DataConfig(task, "made-up", train_rows=rows, max_length=2 * length, own=definition_of(own_task(task, definition)))

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
            benchmark=_BENCHMARK,
            stage=known.stage,
            method=method,
            data=(self._data(length, rows * steps),),
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
    began = time.monotonic()
    bench.run("adapter", 1, extent.lengths[0], 1)
    load_seconds = time.monotonic() - began
    encoder = load_encoder(bench.backbone, device=device)
    longest = extent.lengths[-1]
    memory = bytes_per_row(encoder, bench.job("adapter", 0, longest, 1), longest) / longest
    weights = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    taken = take(bench.run, extent, deadline)
    train_paces, evaluate_paces = fit_paces(taken.points)
    shapes = [shape for rounds in taken.points.values() for shape in rounds if shape[0].jobs == 1]
    around_job = float(np.median([min(point.around_seconds for point in shape) for shape in shapes]))
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
        memory_bytes=device_memory(device_type),
        auto_precision=resolve_precision("auto", torch.device(device_type)),
        worker_seconds=worker_seconds,
        rates=tuple(rates),
    )


def _worker_seconds() -> float:
    """Return the seconds that a new process needs until it can train."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import scalearn.training.loop"], check=True)
    return round(time.monotonic() - began, 1)


def _result(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return result
