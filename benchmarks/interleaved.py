"""Fair timing on a machine that others use too: every round times each path once, and only ratios within a round count."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

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


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> str:
    """Median of the rounds' ratios, with the first and third quartile."""
    first, middle, third = statistics.quantiles([above / below for above, below in zip(numerator, denominator, strict=True)], n=4)
    return f"{middle:.2f} ({first:.2f} to {third:.2f})"


def machine(device: str) -> str:
    """What the figures were taken on."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
