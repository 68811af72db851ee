"""Early stopping across learning rates: the decision alone, its groups, and one real sweep."""

import dataclasses
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.early import best_score, goes_on, is_rung, must_stop, read_history, rivals
from orchestrator.execution.run import Options, run_sweep
from orchestrator.storage.store import Store
from tests.orchestrator.doubles import TRAIN, behave, source, transfer

SWEEP = """
name: rates
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, apple]}
targets: [apple]
training: {early_stopping: asha}
methods:
  scalearn: {learning_rate: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}
  scalearn_uniform: {}
"""


def test_jobs_are_compared_after_3_9_and_27_evaluations():
    assert [count for count in range(1, 40) if is_rung(count)] == [3, 9, 27]


@pytest.mark.parametrize(
    ("score", "others", "expected"),
    [
        (0.1, [], True),  # the first to come
        (0.1, [0.9], False),
        (0.9, [0.1], True),
        (0.5, [0.9, 0.1], False),
        (0.5, [0.9, 0.1, 0.2], True),  # second of four: two go on
        (0.5, [0.5, 0.5, 0.5], True),  # nobody is better
    ],
)
def test_best_third_of_those_that_have_come_goes_on(score, others, expected):
    assert goes_on(score, others) is expected


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30, unique=True))
def test_best_job_is_never_stopped_whatever_the_order_of_arrival(scores):
    best = max(scores)
    assert all(goes_on(best, scores[:count]) for count in range(len(scores)))


def test_of_many_random_jobs_about_a_third_goes_on():
    chance = random.Random(0)
    arrived: list[float] = []
    kept = 0
    for _ in range(300):
        score = chance.random()
        kept += goes_on(score, arrived)
        arrived.append(score)
    assert 80 <= kept <= 140


def test_only_jobs_that_differ_in_learning_rate_and_seed_are_compared():
    def compared(job, rate):
        optimisation = dataclasses.replace(job.config.optimisation, learning_rate=rate, early_stopping="asha")
        return dataclasses.replace(job, config=dataclasses.replace(job.config, optimisation=optimisation))

    top = source("s0")
    same = [compared(transfer("t0", [top], seed), rate) for seed in (0, 1) for rate in (1e-3, 2e-3)]
    others = [compared(transfer("t1", [top]), 1e-3), compared(transfer("t0", [top], omega_dropout=0.5), 1e-3)]
    alone = transfer("t0", [top], seed=9)
    found = rivals(Graph([*same, *others, alone]))
    assert found[same[0].node] == tuple(job.node for job in same[1:])
    assert found[others[0].node] == found[others[1].node] == ()
    assert alone.node not in found


def test_score_is_the_best_so_far_in_the_direction_that_selects():
    records = [{"validation": {"loss": loss, "accuracy": accuracy}} for loss, accuracy in ((0.9, 0.5), (0.3, 0.4), (0.6, 0.7))]
    assert best_score(records, 3, "loss", "accuracy") == -0.3
    assert best_score(records, 2, "metric", "accuracy") == 0.5
    assert best_score(records, 4, "metric", "accuracy") is None


def test_decision_reads_histories_and_ignores_half_a_line(tmp_path):
    def write(name, *losses, tail=""):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"validation": {"loss": loss}}) + "\n" for loss in losses) + tail)
        return path

    mine = write("mine", 3.0, 2.0, 1.5)
    better, unfinished = write("better", 1.0, 1.0, 1.0), write("unfinished", 0.1, 0.1, tail='{"validation": {"lo')
    assert must_stop(mine, [better, tmp_path / "absent"], "loss", "accuracy")
    assert not must_stop(mine, [unfinished, tmp_path / "absent"], "loss", "accuracy")
    assert not must_stop(write("early", 9.0, 9.0), [better], "loss", "accuracy")
    assert len(read_history(unfinished)) == 2


def test_identity_changes_only_where_jobs_are_compared():
    plain, stopping = (
        {job.path: job.fingerprint for job in Sweep.from_text(text).expand()}
        for text in (SWEEP.replace("training: {early_stopping: asha}\n", ""), SWEEP)
    )
    changed = {path.split("/")[3] for path in plain if plain[path] != stopping[path]}
    assert changed == {"scalearn"}


@pytest.mark.slow
def test_worse_learning_rates_end_early_and_their_results_say_so(tmp_path):
    store = Store(tmp_path / "runs")
    losses = {"lr1e-03": 1.0, "lr2e-03": 2.0, "lr3e-03": 3.0, "lr4e-03": 4.0, "lr5e-03": 5.0, "lr6e-03": 6.0}
    behave(store, ("", {"epochs": 10}), *((name, {"loss": loss}) for name, loss in losses.items()))
    sweep = Sweep.from_text(SWEEP)
    assert run_sweep(sweep, store, Options(cpus=2, train=TRAIN), Console(width=200)) == 0
    results = {job.path: store.result(job.node) for job in sweep.expand()}
    stopped = {path.rpartition("/")[2].partition("-seed")[0]: result for path, result in results.items() if result["stopped_by"]}
    assert {result["stopped_by"] for result in stopped.values()} == {"asha"}
    assert 3 <= len(stopped) <= 5
    assert "lr1e-03" not in stopped
    assert all(result["epochs"] in (3, 9) for result in stopped.values())
    assert all(result["epochs"] == 10 for path, result in results.items() if "scalearn/" not in path)
    table = (store.root / "reports" / "rates" / "tables" / "benchmark.md").read_text()
    assert f"{len(stopped)} jobs, of all learning rates, ended early" in table
