"""Seconds and memory to expand, plan and simulate a synthetic sweep of 100,000 jobs on 512 devices.

    python benchmarks/plan_100k.py [--jobs 100000]

Goals: under 30 seconds and 1 GiB.
"""

import argparse
import resource
import time

from orchestrator.definition.sweep import Sweep
from orchestrator.forecast.simulate import simulate
from orchestrator.profiling.profile import DEFAULT_PROFILE, load_profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.watching.plan import plan


def text(jobs: int) -> str:
    """Return a sweep of about so many jobs: GLUE, two methods, learning rates x seeds."""
    seeds = 50
    rates = max(1, round(jobs / (8 * 2 * seeds)))
    listed = ", ".join(f"{1e-5 * (number + 1):.4e}" for number in range(rates))
    return f"""
name: synthetic
benchmark: glue
backbone: roberta-base
seeds: [{", ".join(map(str, range(seeds)))}]
methods:
  scalearn: {{learning_rate: [{listed}]}}
  scalearn_pp: {{learning_rate: [{listed}]}}
"""


def main() -> None:
    """Print what each step took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--devices", type=int, default=512)
    arguments = parser.parse_args()
    began = last = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal last
        now = time.perf_counter()
        print(f"{what:<10} {now - last:6.1f} s")
        last = now

    graph = Sweep.from_text(text(arguments.jobs)).expand()
    lap("expand")
    planned = plan("synthetic", graph)
    lap("plan")
    simulate(graph, CostModel(load_profile(DEFAULT_PROFILE)), arguments.devices)
    lap("simulate")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, own = time.perf_counter() - began, time.process_time()
    print(f"{len(planned.jobs)} jobs: {wall:.1f} s (goal 30), {own:.1f} s of processor time with imports, {memory:.0f} MiB (goal 1024)")


if __name__ == "__main__":
    main()
