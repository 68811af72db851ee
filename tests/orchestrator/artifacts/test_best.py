"""Which finished job is the best of a target: by validation scores alone."""

import json
from pathlib import Path

import pytest

from orchestrator.artifacts.as_run import Run
from orchestrator.artifacts.best import best_job
from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

SWEEP = """
name: two
benchmark: domains
backbone: minilm
sources: {tasks: [apple, bbc]}
targets: [apple, bbc]
seeds: [0, 1, 2]
methods: {scalearn: {}, scalearn_pp: {}, adapterfusion: {}}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Validation and test scores disagree; AdapterFusion has the best ones; one job of ScaLearn++ is not done."""
    sweep, store = Sweep.from_text(SWEEP), Store(tmp_path / "runs")
    graph = sweep.expand()
    for job in graph:
        method, seed = job.config.method, job.config.seed
        if (method, seed) == ("scalearn_pp", 2):
            continue
        validation = {"scalearn": 0.5, "scalearn_pp": 0.6, "adapterfusion": 0.9}.get(method, 0.0) + seed / 100
        scores = {"validation": {"macro_f1": validation, "accuracy": validation}, "test": {"macro_f1": 1 - seed / 10, "accuracy": 0.0}}
        result = {"scores": {job.config.task: scores}, "primary_metric": {job.config.task: "macro_f1"}}
        (store.begin(job.node, {"node": job.node}) / "result.json").write_text(json.dumps(result))
        store.commit(job.node)
    return Run(sweep, store, graph, "two")


def test_best_is_that_of_the_validation_score_among_those_that_fold(run: Run) -> None:
    job, score = best_job(run, target="bbc")
    assert (job.config.method, job.config.task, job.config.seed, score) == ("scalearn_pp", "domains/bbc", 1, 0.61)
    job, score = best_job(run, "scalearn", "domains/apple")
    assert (job.config.method, job.config.task, job.config.seed, score) == ("scalearn", "domains/apple", 2, 0.52)


def test_several_targets_need_one_to_be_named(run: Run) -> None:
    with pytest.raises(UserError, match="choose with --target, of apple, bbc"):
        best_job(run)
