"""How near the simulator comes to a run that has ended.

    python benchmarks/reality.py STORE SWEEP [--profile FILE] [--workers 2]

Two comparisons: with the durations and packs that the profile expects, as the run itself had planned, and with the durations that the
jobs had, one by one, which is the simulator alone. On a machine that others use meanwhile only the second one says something.
"""

import argparse
from dataclasses import replace

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.events import EVENTS
from orchestrator.forecast.simulate import simulate
from orchestrator.profiling.profile import DEFAULT_CPU_PROFILE, load_profile
from orchestrator.scheduling.cost import CostModel, Estimate
from scalearn.errors import UserError
from tests.orchestrator.helpers.read_events import events


class Observed(CostModel):
    """A cost model that knows how long every job took."""

    def __init__(self, expected: CostModel, seconds: dict[str, float]) -> None:
        """Take the durations by node."""
        super().__init__(expected.profile, pack=1)
        self._seconds = seconds

    def estimate(self, job: Job) -> Estimate:
        """See `CostModel.estimate`."""
        return replace(super().estimate(job), seconds=self._seconds[job.node])


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store")
    parser.add_argument("sweep")
    parser.add_argument("--profile", default=DEFAULT_CPU_PROFILE)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    store = Store(arguments.store)
    manifest = store.load_json(store.manifest_path(arguments.sweep))
    if manifest is None:
        raise UserError(f"{arguments.store} holds no sweep {arguments.sweep}.")
    sweep = Sweep.from_text(manifest["yaml"], overrides=manifest["overrides"])
    graph = sweep.expand()
    states = [event for event in events(store.sidecar(arguments.sweep, EVENTS)) if event["event"] == "state"]
    real = max(event["time"] for event in states) - min(event["time"] for event in states)
    expected = CostModel(load_profile(arguments.profile), pack=sweep.packing.limit)
    # Training and evaluation are divided among the jobs of a pack in their results already.
    timings = {node: (store.result(node) or {})["timing"] for node in graph.nodes()}
    seconds = {node: sum(timing.values()) + expected.profile.rates[0].job_seconds for node, timing in timings.items()}
    print(f"{len(graph)} jobs on {arguments.workers} workers took {real:.0f} s")
    for what, cost in (("expected durations", expected), ("observed durations", Observed(expected, seconds))):
        played = simulate(Graph(graph), cost, arguments.workers)
        print(f"simulated with {what}: {played.makespan:.0f} s, {played.makespan / real:.2f} of it")
    total = sum(expected.estimate(job).seconds for job in graph)
    print(f"seconds of all jobs: expected {total:.0f}, observed {sum(seconds.values()):.0f}")


if __name__ == "__main__":
    main()
