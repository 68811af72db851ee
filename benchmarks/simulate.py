"""How near the schedule comes to its lower bound, for the paper's complete set of sweeps on 8, 64 and 512 devices.

    python benchmarks/simulate.py [--profile FILE] [--noise 0.3]

Goals: makespan over the larger of critical path and work per device at most 1.05, 1.10 and 1.25.
"""

import argparse
import time

from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from orchestrator.forecast.simulate import Barrier, FirstCome, simulate
from orchestrator.profiling.profile import DEFAULT_PROFILE, load_profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.policy import Policy

SWEEPS = ("glue", "super_glue", "humset", "gsg", "few_shot", "few_shot:super_glue", "probing", "probing_pairs")
GOALS = {8: 1.05, 64: 1.10, 512: 1.25}
POLICIES = {"policy": Policy, "first come": FirstCome, "barrier": Barrier}


def paper_jobs() -> list[Job]:
    """Return the jobs of all sweeps; what two sweeps share counts once in a graph."""
    jobs = []
    for name in SWEEPS:
        sweep, _, benchmark = name.partition(":")
        jobs += list(Sweep.load(sweep, [f"benchmark={benchmark}"] if benchmark else []).expand())
    return jobs


def main() -> None:
    """Print one line per number of devices and policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", default=DEFAULT_PROFILE)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of log(true / expected duration)")
    arguments = parser.parse_args()
    profile, jobs = load_profile(arguments.profile), paper_jobs()
    print(f"{len(Graph(jobs))} jobs, {profile.device} ({'measured' if profile.measured else 'estimated'}), noise {arguments.noise:g}")
    print(f"{'devices':>7} {'schedule':<11} {'hours':>8} {'bound':>8} {'ratio':>6} {'goal':>5} {'in use':>6} {'packs':>6} {'seconds':>7}")
    for devices, goal in GOALS.items():
        for name, policy in POLICIES.items():
            began = time.perf_counter()
            played = simulate(Graph(jobs), CostModel(profile), devices, policy, noise=arguments.noise)
            spent = time.perf_counter() - began
            figures = f"{played.makespan / 3600:8.1f} {played.bounds.makespan / 3600:8.1f} {played.over_bound:6.3f} {goal:5.2f}"
            print(f"{devices:>7} {name:<11} {figures} {played.utilisation:6.0%} {len(played.packs):6} {spent:7.1f}")


if __name__ == "__main__":
    main()
