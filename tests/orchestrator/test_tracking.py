"""The writer against real MLflow stores: an SQLite file, and a server's address where nobody listens."""

import json
import shutil
import socket
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.graph import Graph
from orchestrator.store import Store
from orchestrator.tracking import Target, Tracker
from tests.orchestrator.doubles import behave, run_jobs, two_stages


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to create its tables: once for all tests."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Store:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    return Store(tmp_path / "runs")


def track(graph: Graph, store: Store, uri: str | None = None) -> tuple[Tracker, int]:
    target = Target.of(uri, None, "toy", "a *toy*", store)
    tracker = Tracker(target, graph, store)
    for node in tracker.untracked(graph.nodes()):
        tracker.add(node)
    tracker.start()
    return tracker, tracker.finish("FINISHED", patience=60)


def runs_of(store: Store) -> dict[str, object]:
    """Runs by node, none twice; the sweep's own under its name."""
    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy")
    assert experiment.artifact_location == (store.root / "mlflow-artifacts").as_uri()
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = Counter(run.data.tags.get("node", run.data.tags["sweep"]) for run in runs)
    assert set(names.values()) == {1}
    return {run.data.tags.get("node", run.data.tags["sweep"]): run for run in runs}


def history(store: Store, run: object, metric: str) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def test_every_job_is_a_child_run_with_parameters_curves_scores_and_tags(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    tracker, left = track(graph, store)
    assert (left, tracker.problem) == (0, None)
    runs = runs_of(store)
    assert set(runs) == {*graph.nodes(), "toy"}
    assert tracker.run_id == runs["toy"].info.run_id
    assert runs["toy"].info.status == "FINISHED"
    (target,) = [job for job in graph if job.parents]
    run = runs[target.node]
    assert run.info.status == "FINISHED"
    expected = {
        "mlflow.parentRunId": runs["toy"].info.run_id,
        "stage": "transfer",
        "method": "scalearn",
        "target": "toy/t0",
        "seed": "0",
        "fingerprint": target.fingerprint,
        "parents": ",".join(parent.node for parent in target.parents),
        "state": "succeeded",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["optimisation.learning_rate"] == "0.006"
    assert run.data.metrics["test/accuracy"] == run.data.metrics["test_score"] == pytest.approx(0.74)
    assert run.data.metrics["parameters/transfer"] == 10
    assert history(store, run, "validation/accuracy") == [(10, 0.5), (20, 0.75)]


def test_rerun_asks_nobody_and_a_lost_ledger_adds_no_duplicate(store):
    graph = two_stages(sources=2, targets=2)
    run_jobs(graph, store)
    track(graph, store)
    target = Target.of(None, None, "toy", "", store)
    assert Tracker(target, graph, store).untracked(graph.nodes()) == []
    before = runs_of(store)
    store.sidecar("toy", "tracked.json").unlink()
    assert Tracker(target, graph, store).untracked(graph.nodes()) == list(graph.nodes())
    track(graph, store)
    after = runs_of(store)
    assert {name: run.info.run_id for name, run in after.items()} == {name: run.info.run_id for name, run in before.items()}
    assert all(len(history(store, run, "train_loss")) == 2 for name, run in after.items() if name != "toy")


@pytest.mark.slow
def test_removed_database_is_written_anew(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    (store.root / "mlflow.db").unlink()
    track(graph, store)
    assert set(runs_of(store)) == {*graph.nodes(), "toy"}


def test_failed_job_is_a_failed_run_with_its_error_and_mends(store):
    graph = two_stages(sources=2, targets=1)
    behave(store, ("t0/", {"error": "The loss became nan."}))
    run_jobs(graph, store)
    track(graph, store)
    node = graph.nodes()[-1]
    failed = runs_of(store)[node]
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "The loss became nan.")
    behave(store)
    again = two_stages(sources=2, targets=1)
    run_jobs(again, store)
    track(again, store)
    mended = runs_of(store)[node]
    assert (mended.info.run_id, mended.info.status, mended.data.tags["state"]) == (failed.info.run_id, "FINISHED", "succeeded")


def test_job_trained_anew_replaces_its_run(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    node = graph.nodes()[0]
    before = runs_of(store)[node]
    store.set_aside(node, "test")
    behave(store, (".", {"epochs": 3}))
    again = two_stages(sources=2, targets=1)
    run_jobs(again, store)
    track(again, store)
    after = runs_of(store)[node]
    assert after.info.run_id != before.info.run_id
    assert [step for step, _ in history(store, after, "train_loss")] == [10, 20, 30]


def test_absent_server_leaves_work_for_a_later_run(store, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    tracker, left = track(graph, store)
    assert left == len(graph)
    assert str(port) in tracker.problem
    assert tracker.target.ui_command() is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _, left = track(graph, store)
    assert left == 0
    assert set(runs_of(store)) == {*graph.nodes(), "toy"}


def test_half_a_line_of_history_waits_for_its_other_half(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    node = graph.nodes()[0]
    with (store.directory(node) / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "time": 1.0})[:-5])
    track(graph, store)
    assert [step for step, _ in history(store, runs_of(store)[node], "train_loss")] == [10, 20]
