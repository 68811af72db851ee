"""The writer against real MLflow stores: an SQLite file, and a server's address where nobody listens."""

import contextlib
import json
import re
import shutil
import socket
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from rich.console import Console

import analysis
from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.tracking.mlflow_runs import SweepRuns
from orchestrator.tracking.writer import Target, Tracker
from orchestrator.watching.report import Report, show_results
from tests.orchestrator.helpers.doubles import behave, run_jobs, two_stages
from tests.orchestrator.helpers.launching import wait_until
from tests.orchestrator.helpers.small_sweep import small_store


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


def track(graph: Graph, store: Store, uri: str | None = None, report: Report | None = None, sweep: str = "toy") -> tuple[Tracker, int]:
    """Log what is not logged, as a run does."""
    target = Target.of(uri, None, sweep, "a *toy*", store)
    tracker = Tracker(target, graph, store)
    untracked = tracker.untracked(graph.nodes())
    for node in untracked:
        tracker.add(node)
    if untracked:
        tracker.start()
    return tracker, tracker.finish("FINISHED", patience=300, report=report)


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
    # The record is there, behind the prefix that MLflow's pages hide.
    assert [name for name in run.data.tags if name.startswith("record")] == []
    assert "mlflow.scalearn.job.0" in run.data.tags


def test_job_is_logged_with_its_data_its_command_and_its_commit(store):
    graph = two_stages(sources=1, targets=1)
    run_jobs(graph, store)
    (target,) = [job for job in graph if job.parents]
    file = store.directory(target.node) / "job.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"provenance": {"argv": ["/opt/bin/scalearn", "run", "a b.yaml"], "git_commit": "abc"}})
    )
    result = store.directory(target.node) / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"rows": {"toy/t0": {"train": 8, "validation": 4}}}))
    track(graph, store)
    run = runs_of(store)[target.node]
    assert run.data.tags["mlflow.source.name"] == "scalearn run 'a b.yaml'"
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    data = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert {split: (each.name, json.loads(each.profile)) for split, each in data.items()} == {
        "train": ("toy/t0", {"num_rows": 8}),
        "validation": ("toy/t0", {"num_rows": 4}),
    }
    assert len({each.digest for each in data.values()}) == 2


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


def test_runs_that_somebody_deleted_in_mlflow_are_made_again_though_the_ledger_names_them(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    before, client = runs_of(store), MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    node, other, *_ = graph.nodes()
    for name in (node, "toy"):
        client.delete_run(before[name].info.run_id)
    assert Tracker(Target.of(None, None, "toy", "", store), graph, store).untracked(graph.nodes()) == []
    tracker, left = track(graph, store)
    after = runs_of(store)
    assert (left, tracker.problem, set(after)) == (0, None, {*graph.nodes(), "toy"})
    assert [step for step, _ in history(store, after[node], "train_loss")] == [10, 20]
    assert after[other].info.run_id == before[other].info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for name, run in after.items() if name != "toy"} == {after["toy"].info.run_id}


def test_drivers_that_join_duplicates_at_once_never_delete_all_of_them(store, monkeypatch):
    """One driver has chosen what to delete; before it does, the other duplicate is completed and another driver joins them."""
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    node, uri = graph.nodes()[0], f"sqlite:///{store.root / 'mlflow.db'}"
    run, client = runs_of(store)[node], MlflowClient(uri)
    client.set_tag(run.info.run_id, "state", "opening")
    client.set_tag(run.info.run_id, "logged_step", "")
    duplicate = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.runName")}
    # With nothing logged, since its id may be the first, and then it stays.
    client.create_run(run.info.experiment_id, run.info.start_time, {**duplicate, "state": "running", "logged_step": ""})

    delete, arrived, go = MlflowClient.delete_run, threading.Event(), threading.Event()

    def held(self: MlflowClient, run_id: str) -> None:
        if threading.current_thread() is first:
            arrived.set()
            assert go.wait(600)
        delete(self, run_id)

    monkeypatch.setattr(MlflowClient, "delete_run", held)

    def join() -> None:
        SweepRuns(uri, "toy", "toy", "", store.root)

    first = threading.Thread(target=join)
    first.start()
    wait_until(lambda: arrived.is_set() or not first.is_alive())
    client.set_tag(run.info.run_id, "state", "succeeded")
    client.set_tag(run.info.run_id, "logged_step", "20")
    join()
    go.set()
    first.join()
    assert client.search_runs([run.info.experiment_id], f"tags.node = '{node}' and tags.state = 'succeeded'")
    assert track(graph, store)[1] == 0
    assert [step for step, _ in history(store, runs_of(store)[node], "train_loss")] == [10, 20]


def test_sweeps_run_that_two_drivers_created_is_one_with_all_jobs_below_it(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    before, client = runs_of(store), MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    sweep = before["toy"]
    late = client.create_run(sweep.info.experiment_id, sweep.info.start_time + 1, {"kind": "sweep", "sweep": "toy"}, "toy")
    client.set_tag(before[graph.nodes()[0]].info.run_id, "mlflow.parentRunId", late.info.run_id)
    track(graph, store)
    after = runs_of(store)
    assert after["toy"].info.run_id == sweep.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for name, run in after.items() if name != "toy"} == {sweep.info.run_id}


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


@pytest.mark.fault
def test_file_that_takes_nothing_at_first_gets_everything_in_a_repeated_last_round(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    tracker = Tracker(Target.of(None, None, "toy", "", store), graph, store)
    for node in graph.nodes():
        tracker.add(node)
    with contextlib.closing(sqlite3.connect(store.root / "mlflow.db", check_same_thread=False)) as database:
        # Two drivers that begin to write at a time: SQLite refuses one at once.
        database.execute("CREATE TRIGGER other BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'database is locked'); END")

        def let_in() -> None:
            wait_until(lambda: tracker.problem)
            database.execute("DROP TRIGGER other")

        with ThreadPoolExecutor() as pool:
            other = pool.submit(let_in)
            tracker.start()
            assert (tracker.finish("FINISHED", patience=300), tracker.problem) == (0, None)
            other.result()
    assert {run.info.status for run in runs_of(store).values()} == {"FINISHED"}


def damage(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def make_newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of the future'")


def take_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [(damage, "file is not a database"), (make_newer, "another version of MLflow"), (take_its_place, "unable to open database file")],
)
def test_database_that_cannot_be_used_is_told_in_one_line_at_once_and_left_alone(store, harm, sentence):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    file = store.root / "mlflow.db"
    harm(file)
    before = file.read_bytes() if file.is_file() else None
    tracker, left = track(graph, store)
    assert left == len(graph)
    assert sentence in tracker.problem
    assert "\n" not in tracker.problem
    assert before is None or file.read_bytes() == before


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


@pytest.mark.parametrize("harm", [lambda path: path.symlink_to(path.name), lambda path: path.mkdir()])
def test_job_with_something_else_in_the_place_of_its_history_holds_no_other_back(store, harm):
    graph = two_stages()
    run_jobs(graph, store)
    history = store.directory(graph.nodes()[0]) / "history.jsonl"
    history.unlink()
    harm(history)
    tracker, left = track(graph, store)
    assert left == 0, tracker.problem
    assert len(runs_of(store)) == 1 + len(graph)


def test_half_a_line_of_history_waits_for_its_other_half(store):
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    node = graph.nodes()[0]
    with (store.directory(node) / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "time": 1.0})[:-5])
    track(graph, store)
    assert [step for step, _ in history(store, runs_of(store)[node], "train_loss")] == [10, 20]


def test_frame_and_report_are_in_mlflow_and_a_rerun_logs_only_a_report_that_is_new(tmp_path, empty_database):
    file, store, graph = small_store(tmp_path / "small")
    shutil.copy(empty_database, store.root / "mlflow.db")
    behave(store, ("lr6e-03-seed1", {"error": "The loss became nan."}))
    run_jobs(graph, store)
    report = show_results(store, "small", Console(quiet=True))
    assert report.problem is None
    tracker, left = track(graph, store, report=report, sweep="small")
    assert (left, tracker.report_problem) == (0, None)
    uri = f"sqlite:///{store.root / 'mlflow.db'}"
    frame = analysis.load(store.root, "small")
    pd.testing.assert_frame_equal(analysis.load(uri, "small"), frame)
    assert set(frame["state"]) == {"succeeded", "failed"}
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    # The page knows by now where the runs are, and leads to each job's.
    linked = show_results(store, "small", Console(quiet=True)).page.read_text()
    found = re.search(r'"mlflow":\{"link":"http://127.0.0.1:5000/#/experiments/(\d+)/runs\?[^"]*tags.node[^"]*%7Bnode%7D', linked)
    assert found is not None
    assert found[1] == experiment.experiment_id
    assert {"mlflow.note.content", *(f"mlflow.sharedViewState.{view}" for view in ("jobs", "methods", "curves"))} <= experiment.tags.keys()
    shown = client.search_runs([experiment.experiment_id], json.loads(experiment.tags["mlflow.sharedViewState.methods"])["searchFilter"])
    assert {run.data.tags["node"] for run in shown} == set(frame.loc[frame["chosen"], "node"])
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"manifest.json", "report"}
    files = {file.path for folder in ("report", "report/tables") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"report/index.html", "report/plots", "report/tables/benchmark.tex"} <= files
    assert run.data.metrics["average/scalearn omega_dropout_0.3"] == pytest.approx(0.74)
    assert "### Sweep small" in run.data.tags["mlflow.note.content"]
    failed, _ = client.search_runs([experiment.experiment_id], "tags.state = 'failed'")
    assert "Failed: The loss became nan." in failed.data.tags["mlflow.note.content"]
    assert failed.info.run_name == "scalearn/apple/" + failed.data.tags["path"].rpartition("/")[2]

    behave(store)
    mended = Sweep.load(file).expand()
    run_jobs(mended, store)
    newer = show_results(store, "small", Console(quiet=True))
    track(mended, store, report=newer, sweep="small")
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert "All 6 jobs succeeded" in run.data.tags["mlflow.note.content"]
    assert "average_std/scalearn omega_dropout_0.3" in run.data.metrics
    page = store.root / "mlflow-artifacts" / run.info.run_id / "artifacts" / "report" / "index.html"
    logged = page.stat().st_mtime_ns
    idle, left = track(mended, store, report=newer, sweep="small")
    assert (idle.run_id, left, idle.report_problem) == (run.info.run_id, 0, None)
    assert page.stat().st_mtime_ns == logged
    # Another choice moves the tags, also where the report is there already.
    track(mended, store, report=replace(newer, chosen=[]), sweep="small")
    assert client.search_runs([experiment.experiment_id], "tags.chosen = 'true'") == []
    # Views of an earlier version are replaced, the description of a person is not.
    for key in ("mlflow.sharedViewState.methods", "mlflow.note.content"):
        client.set_experiment_tag(experiment.experiment_id, key, "other")
    track(mended, store, report=newer, sweep="small")
    tags = client.get_experiment(experiment.experiment_id).tags
    assert "chosen" in tags["mlflow.sharedViewState.methods"]
    assert tags["mlflow.note.content"] == "other"
    client.delete_run(run.info.run_id)
    again, left = track(mended, store, report=newer, sweep="small")
    assert (left, again.report_problem) == (0, None)
    assert {file.path for file in client.list_artifacts(again.run_id)} == {"manifest.json", "report"}


def test_report_that_an_absent_server_misses_is_told_and_logged_by_the_next_run(store, tmp_path, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    graph = two_stages(sources=2, targets=1)
    run_jobs(graph, store)
    track(graph, store)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>")
    report = Report(tmp_path / "report", "mark", "*words*", {"average/scalearn": 0.5})
    away, left = track(graph, store, f"http://127.0.0.1:{port}", report)
    assert left == len(graph)
    assert str(port) in away.report_problem
    tracker, left = track(graph, store, report=report)
    assert (left, tracker.report_problem) == (0, None)
    assert runs_of(store)["toy"].data.metrics == {"average/scalearn": 0.5}
