"""What has to be measured on a GPU, in at most eight minutes: a Markdown file, and beside it a profile for `scalearn plan`.

    python benchmarks/gpu.py --out h100.md                        # h100.md and h100.json
    python benchmarks/gpu.py --device cpu --tiny --out try.md     # only shows that it runs

It needs Python 3.11 with torch, transformers, adapters, datasets and pandas, but neither a network nor an installed package: weights and
tokens are random, and rows are as long as those of GLUE (`lengths.json`). The file is written as it grows, so an interrupted run leaves
what it has.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import bare  # before all that imports the package
import layer
import step
import torch
from gpu_bench import FULL, TINY, Bench, Scale
from gpu_processes import TASK, Trial, mps, run_here, run_processes, take_step
from gpu_profile import profile_of, rates_of
from interleaved import machine, mean_seconds
from lengths import drawn_batches
from paths import SHAPES, SOURCES, Pack, Setting, Step, batch_of, branches_of
from torch import Tensor

from orchestrator.profiling.deadline import ESSENTIAL, Deadline
from orchestrator.profiling.profile import Rates, to_json
from scalearn.backbone.device import resolve_precision
from scalearn.backbone.encoder import Encoder


def equality(bench: Bench) -> None:
    """Compare gradients of jobs in packs, and of unpadded rows, with those of the same jobs alone with padded rows."""
    bench.say("The largest difference of a gradient in fp32, relative to the largest entry of the same tensor. Half of the jobs are single")
    bench.say(
        "adapters, half ScaLearn jobs, with rows of different tasks. Dropout is on, except for unpadded rows, which draw other masks.", ""
    )
    bench.say("| size | jobs | compared with padded rows alone | largest relative difference |", "|---|---|---|---|")
    for size in bench.scale.sizes:
        bench.attempt(size, 20, equality_of, bench, size)


def equality_of(bench: Bench, size: str) -> None:
    """Compare the packs of a backbone."""
    setting = replace(bench.setting(size), precision="fp32")
    encoder = setting.encoder(pads=True)
    for jobs in bench.scale.equal:
        bench.attempt(f"{jobs} jobs, {size}", 10, equality_in_pack, bench, setting, encoder, jobs)


def equality_in_pack(bench: Bench, setting: Setting, encoder: Encoder, jobs: int) -> None:
    """Compare a pack and, beside the smallest one, unpadded rows."""
    pack = Pack.of(setting, encoder, [branch for name in ESSENTIAL for branch in branches_of(name, encoder, SOURCES, jobs // 2)])
    drawn = itertools.cycle(drawn_batches(bench.scale.tasks, min(8, bench.scale.rows), jobs).values())
    batches = [batch_of(next(drawn)[job], "cpu", job) for job in range(jobs)]

    def alone(*, training: bool) -> list[list[Tensor]]:
        return [pack.part(job).gradients([batches[job]], [job], training=training)[0] for job in range(jobs)]

    packed = pack.gradients(batches, range(jobs))
    bench.say(f"| {setting.size} | {jobs} | pack | {difference(packed, alone(training=True)):.1e} |")
    if jobs == bench.scale.equal[0]:
        padded = alone(training=False)
        encoder.pads = False
        bench.say(f"| {setting.size} | 1 | unpadded rows alone | {difference(alone(training=False), padded):.1e} |")
        encoder.pads = True


def difference(found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]) -> float:
    """Return the largest relative difference of the tensors of all jobs."""
    pairs = [pair for jobs in zip(found, expected, strict=True) for pair in zip(*jobs, strict=True)]
    return max(float((one - other).abs().max() / other.abs().max().clamp_min(1e-12)) for one, other in pairs)


def one_layer(bench: Bench) -> None:
    """Time a ScaLearn layer: folded, by the plain formula, and as the adapters library computes it."""
    for size in bench.scale.sizes:
        bench.attempt(size, 5, one_layer_of, bench, size)


def one_layer_of(bench: Bench, size: str) -> None:
    """Time the layer of a backbone."""
    hidden, rows, length = SHAPES[size][0], bench.scale.rows, 128
    built = layer.build_layer(SOURCES, hidden, hidden // 16, rows, length, bench.device, bench.setting(size).dtype)
    bench.say(f"{size}: d = {hidden}, r = {hidden // 16}, {rows} x {length} tokens, {bench.precision}.", "", *layer.HEADER)
    bench.say(layer.row_of(built, bench.scale.rounds, bench.device), "")


def whole_step(bench: Bench) -> None:
    """Time training steps, padded and unpadded, against those of the adapters library."""
    bench.say(f"{bench.scale.rows} rows, T = {SOURCES}, {bench.precision}. The peak is what a step takes beyond weights and optimiser.", "")
    for size in bench.scale.sizes:
        bench.attempt(size, 30, whole_step_of, bench, size)


def whole_step_of(bench: Bench, size: str) -> None:
    """Time the steps of a backbone on the rows of each task."""
    steps = {name: train for name, (train, _) in step.paths_of(bench.setting(size), SOURCES, tuple(step.BRANCHES)).items()}
    bench.say(f"{size}:", "", f"{step.HEADER[0]} peak MiB |", f"{step.HEADER[1]}---|")
    for task in bench.scale.tasks:
        bench.attempt(f"{size} on {task}", 15, steps_on, bench, task, steps)
    bench.say("")


def steps_on(bench: Bench, task: str, steps: Mapping[str, Step]) -> None:
    """Time the steps on the rows of a task."""
    drawn = drawn_batches([task], bench.scale.rows, bench.scale.rounds + 2)[task]
    batches = [batch_of(lengths, bench.device, seed) for seed, lengths in enumerate(drawn)]
    for name, row in step.rows_of(task, steps, batches, bench.device).items():
        bench.say(f"{row} {bench.peak(partial(steps[name], batches[0]))} |")


def profile(bench: Bench) -> None:
    """Measure the profile, and write it after every backbone."""
    name, rows = bench.out.with_suffix(".json").name, bench.scale.rows
    bench.say(f"The profile is `{name}`, beside this file. {rows} rows per job without padding, {bench.precision}.", "")
    bench.say("| size | method | K | tokens per row | ms a step |", "|---|---|---|---|---|")
    found: list[Rates] = []
    for size in bench.scale.sizes:
        bench.attempt(size, bench.scale.profile_seconds, profile_with, bench, size, found)


def profile_with(bench: Bench, size: str, found: list[Rates]) -> None:
    """Measure one more backbone, and write the profile of all."""
    setting, backbone = bench.setting(size), "minilm" if size == "tiny" else size
    rates, left_out = rates_of(setting, backbone, bench.scale.rows, bench.scale.extent, bench.scale.profile_seconds)
    found.append(rates)
    bench.left_out += [f"{size}: {what}" for what in left_out]
    for method, pace in rates.train.items():
        bench.say(*(f"| {size} | {method} | {jobs} | {length} | {1e3 * seconds:.1f} |" for jobs, _, length, seconds in pace.measured))
    remark = "; a tiny model in place of minilm" if size == "tiny" else ""
    values = to_json(profile_of(setting, tuple(found), bench.start_seconds, remark=remark))
    bench.out.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


PACK_COLUMNS = ("size", "method", "way", "K", "ms a step", "ms a step and job", "seconds per trial", "trials per hour")
PACK_HEADER = (f"| {' | '.join(PACK_COLUMNS)} | over one process per trial | peak MiB |", "|---" * (len(PACK_COLUMNS) + 2) + "|")
PACK_SECONDS = 2.0
"""Seconds after which the steps of a pack are enough."""


def packs(method: str, bench: Bench) -> None:
    """Time packs of a method against one process per trial."""
    scale = bench.scale
    bench.say(
        f"A trial is {scale.steps} steps of {scale.rows} rows of {TASK}'s lengths, padded to the longest of all jobs, {bench.precision}."
    )
    bench.say(
        "One process per trial counts from its first import. A pack runs in a warm worker, as a sweep's do: its modules are built, and a"
    )
    bench.say(
        f"mean step, of as many as {PACK_SECONDS:g} s have, counts {scale.steps} times. The peak holds the backbone, too.", "", *PACK_HEADER
    )
    for size in scale.sizes:
        trial = Trial(size, method, bench.device, bench.precision, scale.rows, scale.steps)
        bench.attempt(f"one process per trial, {size}", 30, one_process, bench, trial)
        for jobs in scale.packs:
            bench.attempt(f"a pack of {jobs}, {size}", 10, one_pack, bench, trial, jobs)


def one_process(bench: Bench, trial: Trial) -> None:
    """Run a trial in a process of its own."""
    bench.one_process[trial.size, trial.method] = seconds, step_seconds = run_processes(trial, 1, bench.deadline.left(), {})
    bench.say(pack_row(bench, trial, "one process per trial", 1, step_seconds, seconds))


def one_pack(bench: Bench, trial: Trial, jobs: int) -> None:
    """Time a pack."""
    encoder, batches = bench.encoder(trial.size), trial.batches()
    began = time.perf_counter()
    pack = Pack.of(trial.setting, encoder, branches_of(trial.method, encoder, SOURCES, jobs))
    built = time.perf_counter() - began
    seconds = mean_seconds(lambda number: take_step(pack, batches, number), trial.steps, bench.device, PACK_SECONDS)
    most = bench.peak(lambda: take_step(pack, batches, 0), beyond=False)
    bench.say(pack_row(bench, trial, "pack", jobs, seconds, built + trial.steps * seconds, most))


def pack_row(bench: Bench, trial: Trial, way: str, jobs: int, step_seconds: float, seconds: float, most: str = "not recorded") -> str:
    """Return the row of so many trials that took some seconds together."""
    alone = bench.one_process.get((trial.size, trial.method))
    each, gain = seconds / jobs, f"{alone[0] * jobs / seconds:.2f}" if alone else ""
    cells = [trial.size, trial.method, way, str(jobs), f"{1e3 * step_seconds:.1f}", f"{1e3 * step_seconds / jobs:.2f}"]
    return f"| {' | '.join(cells)} | {each:.2f} | {3600 / each:.0f} | {gain} | {most} |"


def processes(method: str, bench: Bench) -> None:
    """Time several processes of a method at once on the same device."""
    scale = bench.scale
    with mps(bench.device) as (environment, sentence):
        bench.say(f"The same trials, K processes at once, from the first import of the first to the end of the last. {sentence}", "")
        bench.say(*PACK_HEADER)
        for count, size in itertools.product(scale.together, scale.sizes):
            trial = Trial(size, method, bench.device, bench.precision, scale.rows, scale.steps)
            alone, step_seconds = bench.one_process.get((size, method), (30.0, 0.1))
            in_turn = alone + (count - 1) * scale.steps * step_seconds
            bench.attempt(f"{count} processes, {size}", in_turn, at_once, bench, trial, count, environment)


def at_once(bench: Bench, trial: Trial, count: int, environment: Mapping[str, str]) -> None:
    """Run a trial in so many processes at once."""
    seconds, step_seconds = run_processes(trial, count, bench.deadline.left(), environment)
    bench.say(pack_row(bench, trial, f"K processes{' with MPS' if environment else ''}", count, step_seconds, seconds))


def sections(scale: Scale) -> dict[str, Callable[[Bench], None]]:
    """Return what writes each section, by title, most telling first."""
    first: dict[str, Callable[[Bench], None]] = {
        "Equality of packed and alone": equality,
        "One transfer layer": one_layer,
        "A training step": whole_step,
        "The profile": profile,
    }
    trials = (
        {f"Packs of {name} jobs": partial(packs, name), f"Processes of {name} jobs": partial(processes, name)} for name in scale.methods
    )
    return first | {title: section for both in trials for title, section in both.items()}


def measure(bench: Bench) -> None:
    """Write all sections."""
    bench.say("# Measured by `benchmarks/gpu.py`", "")
    bench.say(f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} CPU cores, random weights.")
    for title, section in sections(bench.scale).items():
        bench.say("", f"## {title}", "", f"{machine(bench.device)}.", "")
        section(bench)
        if bench.left_out:
            bench.say("", f"Left out: {'; '.join(bench.left_out)}.")
            bench.left_out.clear()
    bench.say("", f"It took {time.perf_counter() - bare.BEGAN:.0f} s.")


def main() -> None:
    """Measure, or train one trial for a process that measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write; the profile beside it ends in .json")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it (default: 8)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few steps, whose figures mean nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.child:
        run_here(Trial(**json.loads(given.child)))
        return
    if given.out is None or given.out.suffix == ".json":
        parser.error("--out names a Markdown file, such as gpu.md")
    if given.device == "cpu" and not given.tiny:
        parser.error("--device cpu only shows that it runs: add --tiny")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    torch.zeros(1, device=given.device)  # the first use of a GPU is a part of the start
    start = time.perf_counter() - bare.BEGAN
    precision = resolve_precision("auto", torch.device(given.device))
    # The last seconds are for a piece of work that takes longer than it was given.
    deadline = Deadline(60 * given.minutes - start - 10)
    measure(Bench(given.out, given.device, precision, TINY if given.tiny else FULL, deadline, start))


if __name__ == "__main__":
    main()
