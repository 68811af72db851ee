"""How long does `analysis` take from a store of many nodes to a data frame, a table and a report?

    python benchmarks/load_results.py --nodes 10000

Writes a synthetic store with real files into a temporary directory, then reads it. Prints seconds and the store's size; the goal is under
10 seconds for the frame at 10,000 nodes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import analysis
from analysis.report.report import write_report
from tests.analysis.helpers.build_store import StoreSpec, build_store

Value = TypeVar("Value")
METHODS = ("adapterfusion", "scalearn", "scalearn_uniform", "scalearn_pp", "scalearn_uniform_pp")
TASKS = ("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola")


def main() -> None:
    """Build, read, print."""
    parser = argparse.ArgumentParser(description="Time from a store to a data frame.")
    parser.add_argument("--nodes", type=int, default=10_000, help="number of jobs, about (default: 10000)")
    parser.add_argument("--report", action="store_true", help="time the whole report too")
    arguments = parser.parse_args()
    seeds = max(1, round(arguments.nodes / (len(METHODS) * len(TASKS) * 5)))
    rates = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2)
    spec = StoreSpec(
        benchmark="glue",
        backbone="roberta-base",
        tasks=TASKS,
        targets=TASKS,
        methods=dict.fromkeys(METHODS, rates),
        seeds=tuple(range(seeds)),
        omegas=arguments.report,
    )
    with tempfile.TemporaryDirectory() as folder:
        timed("write the store", lambda: build_store(Path(folder), spec))
        frame = timed("load the sweep", lambda: analysis.load(folder, "demo"))
        timed("load the whole store", lambda: analysis.load(folder))
        table = timed("benchmark table", lambda: analysis.benchmark_table(frame))
        timed("Markdown", lambda: analysis.render.to_markdown(table))
        if arguments.report:
            timed("report", lambda: write_report(folder, "demo", Path(folder) / "report"))
        megabytes = frame.memory_usage(deep=True).sum() / 2**20
        print(f"{frame['node'].nunique():,} nodes, {len(frame):,} rows, {len(frame.columns)} columns, {megabytes:.0f} MiB")


def timed(what: str, work: Callable[[], Value]) -> Value:
    """Do it and print how long it took."""
    start = time.perf_counter()
    value = work()
    print(f"{what:24s} {time.perf_counter() - start:7.2f} s", flush=True)
    return value


if __name__ == "__main__":
    main()
