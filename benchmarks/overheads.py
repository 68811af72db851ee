"""What orchestration adds to training: seconds around jobs that do nothing, against plain Ray Tune; cached sweeps; memory of the driver.

    python benchmarks/overheads.py [--jobs 1000] [--large 10000] [--cpus 2]

Goals: at most 0.3 s per job around training with warm workers, a fully cached sweep of 1,000 jobs from command to table in at most 5 s.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Workers import the training function of this file by name.
os.environ["PYTHONPATH"] = f"{ROOT / 'benchmarks'}:{ROOT}"

import psutil  # noqa: E402
from rich.console import Console  # noqa: E402

from orchestrator.artifacts.store import Store  # noqa: E402
from orchestrator.definition.graph import State  # noqa: E402
from orchestrator.definition.sweep import Sweep  # noqa: E402
from orchestrator.execution import run  # noqa: E402
from orchestrator.execution.options import Options  # noqa: E402
from scalearn.training.pack import Outcome, PackMember, Report  # noqa: E402
from scalearn.training.runtime import Runtime  # noqa: E402


def sweep_text(jobs: int, name: str = "noop") -> str:
    """Return a sweep of so many transfer jobs on two sources."""
    return f"""
name: {name}
benchmark: domains
backbone: minilm
sources: {{tasks: [airlines, apple]}}
targets: [apple]
seeds: [{", ".join(map(str, range(jobs)))}]
packing: {{size: 1}}
methods:
  scalearn: {{}}
"""


def noop(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Leave what a job leaves, and nothing else."""
    for member in pack:
        values = {"loss": 0.5, "accuracy": 0.5 + member.config.seed % 7 / 100}
        record = {"epoch": 1, "step": 1, "time": time.time(), "seconds": 0.0, "learning_rate": 1e-3, "train_loss": 0.5}
        record |= {"validation": values}
        with (member.directory / "history.jsonl").open("a", encoding="utf-8") as history:
            history.write(json.dumps(record) + "\n")
        task = member.config.task
        result = {
            "schema": 1,
            "scores": {task: {"validation": values, "test": values}},
            "primary_metric": {task: "accuracy"},
            "parameters": {"transfer": 1, "source": 1, "head": 1},
            "best_epoch": 1,
            "epochs": 1,
            "steps": 1,
            "stopped_early": False,
            "rows": {task: {"train": 1, "validation": 1, "test": 1}},
            "timing": {"train_seconds": 0.0, "evaluate_seconds": 0.0, "load_seconds": 0.0},
            "warnings": [],
        }
        (member.directory / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return [Outcome(member) for member in pack]


class Sampling(run.ProgressDisplay):
    """Notes the time, and the memory of this driver in MiB, at every hundredth job that is done."""

    done = 0
    seen: list[tuple[float, float]] = []  # noqa: RUF012

    def listen(self, node: str, state: State) -> None:
        """Look at the memory."""
        super().listen(node, state)
        if state == "succeeded":
            Sampling.done += 1
            if Sampling.done % 100 == 0:
                Sampling.seen.append((time.perf_counter(), psutil.Process().memory_info().rss / 2**20))


run.ProgressDisplay = Sampling  # type: ignore[misc]


def our_seconds(jobs: int, cpus: int, root: Path) -> float:
    """Run a sweep of jobs that do nothing, from the sweep to the table, tracking included; return its seconds."""
    sweep = Sweep.from_text(sweep_text(jobs))
    began = time.perf_counter()
    code = run.run_sweep(sweep, Store(root), Options(cpus=cpus, train="overheads:noop"), Console(file=open(os.devnull, "w")))  # noqa: SIM115
    assert code == 0
    return time.perf_counter() - began


def tune_seconds(jobs: int, cpus: int, root: Path, *, reuse: bool) -> float:
    """Run so many no-op trials on plain Tune; return the seconds."""
    import ray
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, object]) -> None: ...

        def step(self) -> dict[str, object]:
            return {"done": True}

        def reset_config(self, new_config: dict[str, object]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    began = time.perf_counter()
    ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    tune.Tuner(
        Nothing,
        param_space={"number": tune.grid_search(list(range(jobs)))},
        tune_config=tune.TuneConfig(reuse_actors=reuse, max_concurrent_trials=cpus),
        run_config=tune.RunConfig(storage_path=str(root), name=f"reuse-{reuse}", verbose=0),
    ).fit()
    ray.shutdown()
    return time.perf_counter() - began


def cached_seconds(root: Path, jobs: int) -> float:
    """Return seconds of `scalearn run` on a sweep that is done, from command to table."""
    file = root / "noop.yaml"
    file.write_text(sweep_text(jobs), encoding="utf-8")
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--store", str(root / "runs")]
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        best = min(best, time.perf_counter() - began)
    return best


def status_seconds(root: Path) -> float:
    """Return seconds of `scalearn status` on that sweep."""
    command = [sys.executable, "-m", "orchestrator.cli", "status", str(root / "noop.yaml"), "--store", str(root / "runs")]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began


def tell_growth(seen: Sequence[tuple[float, float]]) -> None:
    """Print the memory and the pace of the driver at its beginning, in its middle and at its end."""
    middle = seen[len(seen) // 2 :]
    grown = (middle[-1][1] - middle[0][1]) * 1024 / max(1, 100 * (len(middle) - 1))
    print(f"driver: {seen[0][1]:.0f} MiB after 100 jobs, {middle[0][1]:.0f} at half, {middle[-1][1]:.0f} after all; {grown:.1f} KiB a job")
    span = max(1, len(seen) // 10)
    first, last = (seen[span][0] - seen[0][0]) / (100 * span), (seen[-1][0] - seen[-1 - span][0]) / (100 * span)
    print(f"a job took {first:.3f} s in the first tenth, {last:.3f} s in the last")


def driver_memory(jobs: int) -> float:
    """Return the peak memory in MiB of a process that holds a sweep's graph and policy, as the driver does, Ray's libraries included."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from overheads import sweep_text
from orchestrator.scheduling.cost import CostModel
from orchestrator.profiling.profile import load_profile
from orchestrator.execution.schedule import Policy
from orchestrator.definition.sweep import Sweep
graph = Sweep.from_text(sweep_text({jobs})).expand()
policy = Policy(graph, CostModel(load_profile("h100_estimate")), 8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def main() -> None:
    """Print a line per figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--cold", type=int, default=60, help="trials of plain Tune without actor reuse, which take seconds each; 0: no plain Tune"
    )
    arguments = parser.parse_args()
    print(f"{arguments.cpus} CPUs, load before {os.getloadavg()[0]:.1f}")
    print(f"driver at {arguments.large} jobs: {driver_memory(arguments.large):.0f} MiB, at 10: {driver_memory(10):.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        small = our_seconds(10, arguments.cpus, root / "small")
        ours = our_seconds(arguments.jobs, arguments.cpus, root / "runs")
        tell_growth(Sampling.seen)
        print(f"peak of the driver, its table and report included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        warm = (ours - small) / (arguments.jobs - 10)
        print(f"ours: {ours:.1f} s for {arguments.jobs} jobs, start included")
        print(f"ours: {warm:.3f} s per further job, that is {warm * arguments.cpus:.3f} s of a worker (goal 0.3)")
        print(
            f"cached sweep of {arguments.jobs} jobs, from command to table: {cached_seconds(root, arguments.jobs):.1f} s (goal 5 at 1,000)"
        )
        print(f"its status: {status_seconds(root):.1f} s")
        if not arguments.cold:
            return
        reused = tune_seconds(arguments.jobs, arguments.cpus, root / "tune", reuse=True)
        print(f"plain Tune, reuse_actors: {reused:.1f} s for {arguments.jobs} trials; ours takes {ours / reused:.2f} of it")
        cold = tune_seconds(arguments.cold, arguments.cpus, root / "tune", reuse=False) / arguments.cold
        print(f"plain Tune without reuse: {cold:.2f} s per trial; ours takes {warm / cold:.3f} of it")


if __name__ == "__main__":
    main()
