"""Early stopping across learning rates: the decision alone, its groups, and one real sweep."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.artifacts.store import HISTORY, Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.execution import trial
from orchestrator.execution.early import DECISIONS, best_score, goes_on, last_rung, must_stop, rivals
from orchestrator.execution.options import Options
from orchestrator.execution.run import run_sweep
from orchestrator.execution.trial import MemberOrder, PackOrder
from orchestrator.storage.retrying import StoreUnavailable
from scalearn.files.json_files import json_lines
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import TRAIN, behave, source, transfer

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
    assert [count for count in range(1, 40) if last_rung(count) == count] == [3, 9, 27]
    assert (last_rung(2), last_rung(8), last_rung(26)) == (None, 3, 9)


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


def history(*losses: float) -> bytes:
    return b"".join(json.dumps({"validation": {"loss": loss}}).encode() + b"\n" for loss in losses)


def decide(directory: Path, *others: bytes) -> bool:
    return must_stop(directory, lambda: others, "loss", "accuracy")


def reported(directory: Path, *losses: float) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / HISTORY).write_bytes(history(*losses))
    return directory


def test_decision_reads_histories_and_ignores_half_a_line(tmp_path):
    better, unfinished = history(1.0, 1.0, 1.0), history(0.1, 0.1) + b'{"validation": {"lo'
    assert decide(reported(tmp_path / "worse", 3.0, 2.0, 1.5), better)
    assert not decide(reported(tmp_path / "compared with nobody", 3.0, 2.0, 1.5), unfinished)
    assert not decide(reported(tmp_path / "early", 9.0, 9.0), better)


def test_line_that_a_full_disk_has_torn_hides_none_after_it(tmp_path):
    torn = history(1.0) + b'{"validation": {"lo\n' + history(1.0, 1.0)
    assert decide(reported(tmp_path / "worse", 3.0, 2.0, 1.5), torn)


def test_decision_that_an_interruption_prevented_is_made_at_the_next_evaluation_and_none_twice(tmp_path):
    better, worse = history(0.1, 0.1, 0.1), history(9.0, 9.0, 9.0)
    # Its third evaluation was checkpointed, and the process killed before it was compared.
    assert decide(reported(tmp_path / "late", 3.0, 3.0, 3.0, 0.01), better)
    assert decide(reported(tmp_path / "late", 3.0, 3.0, 3.0, 0.01, 0.01), worse), "it was stopped, and killed before it had ended"
    going = reported(tmp_path / "going", 3.0, 3.0, 3.0)
    assert not decide(going, worse)
    assert not decide(reported(going, 3.0, 3.0, 3.0, 3.0), better), "who went on is not compared again before the next rung"
    (decision,) = json_lines((going / DECISIONS).read_bytes())
    assert decision == {"evaluations": 3, "score": -3.0, "others": [-9.0], "goes_on": True}


def test_store_that_is_away_at_a_comparison_is_waited_for_and_decides_nothing(tmp_path):
    def away() -> list[bytes]:
        raise StoreUnavailable("away")

    directory = reported(tmp_path / "mine", 3.0, 3.0, 3.0)
    with pytest.raises(StoreUnavailable):
        must_stop(directory, away, "loss", "accuracy")
    assert decide(directory, history(0.1, 0.1, 0.1))


def test_pack_on_a_store_behind_a_url_is_compared_with_its_own_members_too(tmp_path, monkeypatch):
    """Of three that are evaluated together the best goes on, though none has published what the others have."""
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path / "scratch"))
    store, top = Store(f"memory://{tmp_path.name}/runs"), source("s0")
    jobs = [dataclasses.replace(top, config=dataclasses.replace(top.config, seed=seed)) for seed in range(3)]
    members = [MemberOrder(job.node, job.config, {}, {}, tuple(other.node for other in jobs if other != job), "accuracy") for job in jobs]
    pack = {member.node: PackMember(member.config, store.begin(member.node, {})) for member in members}
    for loss, member in zip((2.0, 1.0, 3.0), pack.values(), strict=True):
        (member.directory / HISTORY).write_bytes(history(*[loss] * 3))
    order = PackOrder(tuple(members), store.url, TRAIN, Runtime(), store.root / ".tune" / "stop")
    report = trial._reporter(order, store, pack, lambda: False)
    assert [report(member, {"step": 3}) for member in pack.values()] == [True, False, True]


def test_identity_changes_only_where_jobs_are_compared():
    plain, stopping = (
        {job.path: job.fingerprint for job in Sweep.from_text(text).expand()}
        for text in (SWEEP.replace("training: {early_stopping: asha}\n", ""), SWEEP)
    )
    changed = {path.split("/")[3] for path in plain if plain[path] != stopping[path]}
    assert changed == {"scalearn"}


def rates(listed: str, seeds: str = "0") -> dict[str, str]:
    """Fingerprints by path of the jobs that are compared."""
    graph = Sweep.from_text(SWEEP, overrides=[f"methods.scalearn={{learning_rate: {listed}, seeds: [{seeds}]}}"]).expand()
    return {job.path: job.fingerprint for job in graph if job.config.method == "scalearn"}


def test_job_that_may_be_ended_is_another_one_among_other_rivals():
    alone = rates("[6e-3, 2e-2]")
    assert rates("[2e-2, 6e-3]") == alone, "the order in the file decides nothing"
    for others in (rates("[6e-3, 2e-2, 1e-3]"), rates("[6e-3, 2e-2]", seeds="0, 1")):
        shared = alone.keys() & others.keys()
        assert len(shared) == 2
        assert all(alone[path] != others[path] for path in shared), "a result that its old rivals cut short would stand for it"


def test_jobs_of_two_rows_that_are_compared_name_each_other():
    dropped_row = "{learning_rate: [1e-3, 2e-3], settings: {omega_dropout: 0.5}}"
    rows = f"[{{learning_rate: [1e-3, 2e-3]}}, {{learning_rate: [2e-3, 3e-3]}}, {dropped_row}]"
    graph = Sweep.from_text(SWEEP, overrides=[f"methods.scalearn={rows}"]).expand()
    plain, dropped = (
        [job for job in graph if job.config.method == "scalearn" and ("omega_dropout" in job.path) is other] for other in (False, True)
    )
    assert [job.config.compared for job in plain] == [((1e-3, 0), (2e-3, 0), (3e-3, 0))] * 3
    assert [job.config.compared for job in dropped] == [((1e-3, 0), (2e-3, 0))] * 2
    found = rivals(graph)
    assert all(len(found[job.node]) == len(job.config.compared) - 1 for job in (*plain, *dropped))


def test_rows_of_one_learning_rate_each_are_not_compared():
    graph = Sweep.from_text(SWEEP, overrides=["methods.scalearn=[{learning_rate: 1e-3}, {learning_rate: 2e-3}]"]).expand()
    assert all(job.config.optimisation.early_stopping is None and not job.config.compared for job in graph)
    assert not rivals(graph)


@pytest.mark.slow
def test_worse_learning_rates_end_early_and_their_results_say_so(tmp_path):
    store = Store(tmp_path / "runs")
    losses = {"lr1e-03": 1.0, "lr2e-03": 2.0, "lr3e-03": 3.0, "lr4e-03": 4.0, "lr5e-03": 5.0, "lr6e-03": 6.0}
    behave(store, ("", {"epochs": 10}), *((name, {"loss": loss}) for name, loss in losses.items()))
    sweep = Sweep.from_text(SWEEP)
    assert run_sweep(sweep, store, Options(cpus=2, gpus=0, train=TRAIN), Console(width=200)) == 0
    results = {job.path: store.result(job.node) for job in sweep.expand()}
    stopped = {path.rpartition("/")[2].partition("-seed")[0]: result for path, result in results.items() if result["stopped_by"]}
    assert {result["stopped_by"] for result in stopped.values()} == {"asha"}
    assert 3 <= len(stopped) <= 5
    assert "lr1e-03" not in stopped
    assert all(result["epochs"] in (3, 9) for result in stopped.values())
    for job in sweep.expand():
        decisions = store.directory(job.node) / DECISIONS
        assert decisions.exists() == (job.config.method == "scalearn")
        if decisions.exists():
            assert list(json_lines(decisions.read_bytes()))[-1]["goes_on"] == (store.result(job.node)["stopped_by"] is None)
    assert all(result["epochs"] == 10 for path, result in results.items() if "scalearn/" not in path)
    table = (store.root / "reports" / "rates" / "tables" / "benchmark.md").read_text()
    assert f"0 of the 1 jobs at the chosen learning rate, and {len(stopped)} at others, ended early" in table
