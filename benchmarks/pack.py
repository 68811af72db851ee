"""Trials per hour of packs, against one process per trial and against K processes that share the device.

    python benchmarks/pack.py                                          # MiniLM, both stages, on what there is
    python benchmarks/pack.py --size roberta-base --packs 1 2 4 8 16 32 --lengths 64 128 --steps 200

Weights are random and rows are made up; everything else is the training function as a sweep calls it, with data, evaluation and
artifacts. `warm` packs run in a process that has trained before, as a sweep's workers have. Goals: on an H100 at least 5 times the trials
per hour of one process per trial at K = 16, and more than K processes; on two CPU cores never slower than K = 1.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from orchestrator.profiling.measure import BATCH, Bench
from scalearn.backbone.device import device_name
from scalearn.backbone.registry import get_backbone

SHAPES = {"minilm": (384, 6, 12), "roberta-base": (768, 12, 12)}
STAGES = {1: "adapter", 2: "scalearn"}
ALONE = "one process per trial"


def save_backbone(folder: Path, size: str) -> str:
    """Write an encoder of a size with random weights, and a tokenizer."""
    hidden, layers, heads = SHAPES[size]
    torch.manual_seed(0)
    config = BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_backbone("minilm").locate()).save_pretrained(folder)
    return str(folder)


def processes(bench: Bench, arguments: argparse.Namespace, method: str, length: int, count: int) -> float:
    """Return the seconds of so many processes at once, each with one trial from its first import to its artifact."""
    command = [sys.executable, __file__, "--child", bench.backbone.name, "--device", arguments.device, "--steps", str(arguments.steps)]
    command += ["--precision", arguments.precision, "--lengths", str(length), "--method", method, "--adapter", str(bench.adapter)]
    if arguments.device == "cpu":
        # Processes share the cores, as a scheduler would divide them.
        command += ["--threads", str(max(1, arguments.threads // count))]
    began = time.perf_counter()
    children = [subprocess.Popen(command) for _ in range(count)]
    codes = [child.wait() for child in children]
    if any(codes):
        raise RuntimeError(f"{sum(map(bool, codes))} of {count} processes failed")
    return time.perf_counter() - began


def child(arguments: argparse.Namespace) -> None:
    """Train one trial."""
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(Path(folder), arguments.child, arguments, arguments.adapter)
        bench.run(arguments.method, 1, arguments.lengths[0], arguments.steps)


def open_bench(folder: Path, backbone: str, arguments: argparse.Namespace, adapter: Path | None = None) -> Bench:
    """Return a bench with rows for all steps."""
    given = arguments.precision, arguments.device, arguments.threads
    bench = Bench(folder, backbone, *given, most_steps=arguments.steps, adapter=adapter)
    bench.runtime = replace(bench.runtime, micro_batch_rows=arguments.rows_per_pass)
    return bench


def measure(arguments: argparse.Namespace, bench: Bench, method: str, length: int) -> dict[tuple[str, int], list[float]]:
    """Return seconds per trial of every way, round by round: a slow moment of the machine falls on few figures of each."""
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    bench.run("adapter", 1, length, 1)  # also the source adapter of every transfer job
    bench.run(method, 1, length, 1)
    for _ in range(arguments.rounds):
        seconds[ALONE, 1].append(processes(bench, arguments, method, length, 1))
        for count in arguments.together:
            seconds["K processes", count].append(processes(bench, arguments, method, length, count) / count)
        for count in arguments.packs:
            began = time.perf_counter()
            bench.run(method, count, length, arguments.steps)
            seconds["warm pack", count].append((time.perf_counter() - began) / count)
    return seconds


def print_table(arguments: argparse.Namespace) -> None:
    """Print the rows of every stage and length as they are measured."""
    print("| size | stage | length | way | K | seconds per trial | trials per hour | over one process per trial |")
    print("|---|---|---|---|---|---|---|---|")
    for stage, length in itertools.product(arguments.stages, arguments.lengths):
        with tempfile.TemporaryDirectory() as folder:
            backbone = save_backbone(Path(folder) / "backbone", arguments.size)
            measured = measure(arguments, open_bench(Path(folder) / "bench", backbone, arguments), STAGES[stage], length)
        for (way, count), seconds in measured.items():
            median = statistics.median(seconds)
            gains = [alone / one for alone, one in zip(measured[ALONE, 1], seconds, strict=True)]
            gain = f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"
            print(f"| {arguments.size} | {stage} | {length} | {way} | {count} | {median:.2f} | {3600 / median:.0f} | {gain} |", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SHAPES, default="minilm")
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=[1, 2])
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--together", type=int, nargs="+", default=[2], help="K of the K processes")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows-per-pass", type=int, help="compute a pack's batch in parts of so many rows where memory is short")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--adapter", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    shape = f"{arguments.precision}, batch {BATCH}, {arguments.steps} steps a trial, {arguments.rounds} rounds"
    print(f"{device_name(arguments.device)}, {shape}, load before {os.getloadavg()[0]:.1f}\n")
    print_table(arguments)


if __name__ == "__main__":
    main()
