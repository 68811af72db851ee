"""The sweeps that the package ships: what they plan, and that planning stays light."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.plan import plan
from orchestrator.sweep import Sweep, shipped_sweeps

TWO_STAGE = ("adapterfusion", "scalearn", "scalearn_uniform", "scalearn_pp", "scalearn_uniform_pp")

PAPER = {
    # sweep: source jobs, jobs of each two-stage method, further adapter baselines
    "glue": (8, 52, 44),
    "glue_large": (8, 24, 16),
    "super_glue": (8, 66, 58),
    "super_glue_large": (8, 24, 16),
    "humset": (5, 15, 10),
    "humset_large": (5, 15, 10),
    "gsg": (15, 108, 93),
    "gsg_large": (15, 45, 30),
    "few_shot": (40, 160, 128),  # 8 full and 8 x 4 few-shot source adapters; 8 tasks x 4 sizes x 5 seeds
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_sweep_plans_its_published_number_of_jobs(name: str):
    sources, each, baselines = PAPER[name]
    jobs = plan(name, Sweep.load(name).expand()).to_json()["jobs"]
    assert jobs["by_stage"] == {"source": sources, "single": baselines, "transfer": each * len(TWO_STAGE)}
    assert jobs["by_method"] == dict.fromkeys(TWO_STAGE, each)
    assert jobs["by_state"] == {"cached": 0, "pending": jobs["total"]}


def test_glue_optimisation_is_the_published_one():
    for job in Sweep.load("glue").expand():
        published = {"adapter": (3e-4, 5), "adapterfusion": (5e-5, 5)}.get(job.config.method, (6e-3, None))
        optimisation = job.config.optimisation
        assert (optimisation.learning_rate, optimisation.patience) == published
        assert (optimisation.batch_size, optimisation.epochs, optimisation.selection) == (32, 30, "loss")
        assert (optimisation.weight_decay, optimisation.warmup) == (0, 0)


def test_record_takes_three_epochs_in_the_transfer_stage_only():
    epochs = {(job.config.task, job.config.stage): job.config.optimisation.epochs for job in Sweep.load("super_glue").expand()}
    assert epochs.pop(("super_glue/record", "transfer")) == 3
    assert set(epochs.values()) == {30}


def test_lengths_are_the_papers():
    lengths = {job.config.task: job.config.data[0].max_length for job in Sweep.load("gsg").expand()}
    assert lengths.pop("super_glue/multirc") == 324
    assert lengths.pop("super_glue/record") == 256
    assert set(lengths.values()) == {128}


def test_humset_picks_the_best_epoch_by_its_metric():
    assert {job.config.optimisation.selection for job in Sweep.load("humset").expand()} == {"metric"}


def test_gsg_reuses_the_source_adapters_of_both_benchmarks():
    def adapters(name: str) -> set[str]:
        graph = Sweep.load(name).expand()
        return {node for node in graph.nodes() if graph.stage_of(node) == "source"}

    assert adapters("gsg") == (adapters("glue") | adapters("super_glue")) - {node for node in adapters("super_glue") if "/rte/" in node}


def test_quickstart_compares_six_methods_over_two_seeds_with_two_learning_rates_for_one():
    sweep = Sweep.load("quickstart")
    graph = sweep.expand()
    assert list(sweep.methods) == ["adapter", *TWO_STAGE]
    rates = {job.config.method: set() for job in graph}
    for job in graph:
        rates[job.config.method].add(job.config.optimisation.learning_rate)
    assert {method for method, values in rates.items() if len(values) > 1} == {"scalearn"}
    assert Counter(map(graph.stage_of, graph.nodes()))["source"] == 6


@pytest.mark.parametrize("name", ["glue_smoke", "minilm_glue", "all_tasks_smoke"])
def test_local_sweep_plans_from_local_files(name: str, shared: Path):
    graph = Sweep.load(name, [f"data.root={shared / 'benchmarks'}"]).expand()
    assert all(data.origin.startswith("files:sha256-") for job in graph for data in job.config.data)


def test_all_tasks_smoke_names_every_task_that_has_rows(shared: Path):
    root = shared / "benchmarks"
    present = {f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()}
    graph = Sweep.load("all_tasks_smoke", [f"data.root={root}"]).expand()
    for stage in ("source", "transfer"):
        assert {job.config.task for job in graph if job.config.stage == stage} == present


def test_each_sweep_opens_with_the_question_it_answers(repository: Path):
    files = sorted((repository / "sweeps").glob("*.yaml"))
    assert {file.stem for file in files} == set(shipped_sweeps())
    for file in files:
        first = file.read_text(encoding="utf-8").splitlines()[:2]
        assert any(line.startswith("#") for line in first), file.name


def test_planning_imports_nothing_heavy_and_touches_no_network():
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("planning opened a socket")
socket.socket.connect = refuse
from orchestrator.sweep import Sweep
from orchestrator.plan import plan
print(len(plan("glue", Sweep.load("glue").expand()).jobs))
heavy = {"torch", "ray", "transformers", "datasets", "mlflow", "adapters", "accelerate", "pandas", "pyarrow", "numpy"}
assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "312"
