"""Fair timing on a machine that others use too: every round times each path once, and only ratios within a round count."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from scalearn.backbone.device import device_name

Run = Callable[[], None]


def interleaved(paths: Mapping[str, Run], rounds: int, device: str, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of every path in every round, after `warm_up` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(rounds + warm_up):
        for name, run in paths.items():
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def mean_seconds(run: Callable[[int], object], steps: int, device: str, limit: float = math.inf) -> float:
    """Return the mean seconds of so many steps, or of fewer if they take longer than a limit, after two that do not count.

    Args:
        run: Takes a step, given its number.
        steps: How many count, at least one.
        device: `cpu` or `cuda`.
        limit: No step begins after so many seconds of steps that count.
    """
    taken: list[float] = []
    for number in range(steps + 2):
        began = time.perf_counter()
        run(number)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
        if sum(taken[2:]) > limit:
            break
    return statistics.mean(taken[2:])


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> str:
    """Median of the rounds' ratios, with the first and third quartile."""
    first, middle, third = statistics.quantiles([above / below for above, below in zip(numerator, denominator, strict=True)], n=4)
    return f"{middle:.2f} ({first:.2f} to {third:.2f})"


def machine(device: str) -> str:
    """Return what the figures were taken on: `2-core AMD EPYC CPU with avx512_bf16, 2 threads, torch 2.13.0`."""
    name = device_name(device)
    if device == "cpu":
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
        bf16 = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags][:1]
        name += f"{' with ' if bf16 else ''}{''.join(bf16)}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    return f"{name}, torch {torch.__version__}"
