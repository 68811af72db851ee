import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from mlflow import MlflowClient

import analysis
from analysis.reading.files import open_folder
from analysis.reading.load import read_sweep
from analysis.reading.mlflow_records import MANIFEST_ARTIFACT, ending_tags, job_tags
from analysis.reading.records import read_manifest, read_records
from analysis.report.mlflow_jobs import experiment_description, run_description, saved_views, ui_link
from analysis.report.mlflow_sweep import MOST_CHARACTERS, sweep_description, sweep_metrics
from analysis.report.results import gather
from tests.analysis.helpers.build_store import StoreSpec, build_store
from tests.ports import free_ports

if TYPE_CHECKING:
    from conftest import Browser


def log(store: Path, uri: str, artifacts: Path, name: str = "demo") -> tuple[MlflowClient, str]:
    """Log a sweep as the orchestrator does: a run for the sweep, and one for each job that has begun."""
    client = MlflowClient(uri)
    experiment = client.create_experiment(
        name, artifact_location=None if uri.startswith("http") else artifacts.as_uri(), tags=saved_views()
    )
    parent = client.create_run(experiment, tags={"kind": "sweep", "sweep": "demo"}, run_name="demo").info.run_id
    client.log_artifact(parent, str(store / "sweeps" / "demo.json"))
    client.log_dict(parent, json.loads((store / "sweeps" / "demo.json").read_text()), MANIFEST_ARTIFACT)
    for path in sorted(store.glob("**/job.json")):
        job = json.loads(path.read_text())
        tags = {"kind": "job", "node": job["node"], "method": job["config"]["method"], "stage": job["stage"], "mlflow.parentRunId": parent}
        tags |= job_tags(job)
        for name in ("SUCCESS.json", "FAILED.json"):
            if (path.parent / name).exists():
                result = path.parent / "result.json"
                tags |= ending_tags(
                    json.loads(result.read_text()) if result.exists() else None, json.loads((path.parent / name).read_text())
                )
        tags |= {"target": job["config"]["data"][0]["task"], "chosen": str("lr6e-03" in job["node"]).lower()}
        run = client.create_run(experiment, tags=tags, run_name=job["path"])
        client.log_metric(run.info.run_id, "test_score", 0.5)
        for epoch in (1, 2):
            client.log_metric(run.info.run_id, "validation/loss", 1 / epoch, step=epoch)
            client.log_metric(run.info.run_id, "epoch", epoch, step=epoch)
    return client, experiment


@pytest.fixture(scope="module")
def tracked(broken_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    log(broken_store, uri, root / "artifacts")
    return uri


def test_load_from_mlflow_equals_load_from_the_store(broken_store: Path, tracked: str) -> None:
    expected, found = analysis.load(broken_store, "demo"), analysis.load(tracked, "demo")
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs == expected.attrs
    assert set(found["state"]) == {"succeeded", "failed", "running", "pending"}


def test_database_of_an_earlier_version_gives_the_same_frame(broken_store: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, experiment = log(broken_store, uri, tmp_path / "artifacts")
    for run in client.search_runs([experiment], "tags.kind = 'job'"):
        for name, value in run.data.tags.items():
            if name.startswith("mlflow.scalearn."):
                client.delete_tag(run.info.run_id, name)
                client.set_tag(run.info.run_id, name.replace("mlflow.scalearn.", "record."), value)
    pd.testing.assert_frame_equal(analysis.load(uri, "demo"), analysis.load(broken_store, "demo"))


def test_load_whole_server_has_the_nodes_that_have_begun(broken_store: Path, tracked: str) -> None:
    keys = ["node", "split", "metric"]
    expected, found = (analysis.load(place).sort_values(keys, ignore_index=True) for place in (broken_store, tracked))
    pd.testing.assert_frame_equal(found, expected)


def test_load_unknown_sweep_or_silent_server_is_one_sentence(tracked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(analysis.ResultsError, match="knows no sweep named 'other'"):
        analysis.load(tracked, "other")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    with pytest.raises(analysis.ResultsError, match="cannot be read"):
        analysis.load(f"http://127.0.0.1:{port}", "demo")


def test_long_records_are_split_and_a_shorter_one_may_replace_them() -> None:
    from analysis.reading.mlflow_records import record_from_tags

    long = {"config": {"method": "x" * 20_000}, "stage": "joint", "parents": []}
    tags = job_tags(long)
    assert max(map(len, tags.values())) <= 4000
    assert record_from_tags("n", tags).config == long["config"]
    tags |= job_tags({"config": {"method": "y"}})
    assert record_from_tags("n", tags).config == {"method": "y"}


def test_record_that_is_too_deep_for_a_reader_is_no_record() -> None:
    from analysis.reading.mlflow_records import record_from_tags

    assert record_from_tags("n", {"record.job": "1", "record.job.0": "[" * 100_000}).config["data"] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"nodes": [', "holds no sound manifest.json; run the sweep again"),
        ("5", "holds no sound manifest.json; run the sweep again"),
        ('{"nodes": 5}', "has not the form that runs write; run the sweep again"),
        ('{"nodes": [{"task": "x"}]}', "names None, which is no job of this store"),
    ],
)
def test_manifest_that_no_run_has_logged_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("demo", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment, tags={"kind": "sweep", "sweep": "demo"}).info.run_id
    client.log_text(run, text, MANIFEST_ARTIFACT)
    with pytest.raises(analysis.ResultsError, match=sentence):
        analysis.load(uri, "demo")


def test_sweep_metrics_are_the_averages_of_complete_rows(broken_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(broken_store, "demo"))
    metrics = sweep_metrics(table)
    assert metrics["average/scalearn"] == next(row.average for row in table.rows if row.method == "scalearn")
    assert "average/scalearn_uniform_pp" not in metrics
    assert "score/scalearn_uniform_pp/apple" in metrics


def test_descriptions_say_what_is_what_and_fit_the_server(broken_store: Path) -> None:
    text = sweep_description(gather(read_sweep(broken_store, "demo")))
    assert "**ScaLearn" in text
    assert "The sweep is not finished" in text
    assert "| Method |" in text
    assert len(text) <= MOST_CHARACTERS
    assert "tags.kind = 'job'" in experiment_description("demo")
    folder = open_folder(broken_store)
    records = {record.node: record for record in read_records(folder, read_manifest(folder, "demo"))}
    failed = next(run_description(record) for record in records.values() if record.state == "failed")
    assert "Failed: the loss became nan" in failed
    done = next(run_description(record) for record in records.values() if record.stage == "transfer" and record.state == "succeeded")
    assert "Built on the source adapters airlines, apple, coachella." in done


@dataclass(frozen=True)
class Shown:
    """What `scalearn ui` serves."""

    store: Path
    address: str
    links: dict[str, str]
    process: "subprocess.Popen[str]"


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    """`scalearn ui` on a sweep with a failed job, logged to an SQLite file."""
    states = {"scalearn_pp/apple/lr6e-03-seed1": "failed"}
    store = tmp_path / "store"
    spec = StoreSpec(methods={"adapter": (3e-4,), "scalearn": (6e-3,), "scalearn_pp": (6e-3,)}, states=states)
    manifest = build_store(store, spec)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tracking_uri": uri, "experiment": "demo"}))
    log(store, uri, tmp_path / "artifacts")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "orchestrator.cli", "ui", str(manifest), "--port", str(port), "--no-browser"]
    with (tmp_path / "errors.log").open("w") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        links = {}
        for line in process.stdout:
            what, _, link = line.strip().partition(": ")
            if link:
                links[what] = link
            if "Ctrl-C" in line:
                break
        assert links, (tmp_path / "errors.log").read_text()
        yield Shown(store, f"http://127.0.0.1:{port}", links, process)
    finally:
        process.terminate()  # and not kill: it has a server to end
        process.communicate(timeout=60)


def run_names(browser: "Browser", ready: str) -> list[str]:
    """Names of the runs that MLflow's page lists, once it shows a text."""
    for _ in range(240):
        text = str(browser.run("return document.body.innerText"))
        if ready in text and "domains/minilm/" in text:
            return [line for line in text.splitlines() if line.startswith("domains/minilm/")]
        time.sleep(0.5)
    raise AssertionError(text)


@pytest.mark.slow
def test_ui_serves_the_sweep_shows_its_views_and_ends_with_ctrl_c(shown: Shown, browser: "Browser", tmp_path: Path) -> None:
    frame = analysis.load(shown.store, "demo")
    pd.testing.assert_frame_equal(analysis.load(shown.address, "demo"), frame)
    _, experiment = log(shown.store, shown.address, tmp_path, "through the server")
    browser.open(shown.links["by method"], width=1600)
    grouped = run_names(browser, "Group: scalearn_pp")
    # Only the jobs of the table: the averages are then the table's.
    assert len(grouped) == frame.loc[frame["node"].str.contains("lr6e-03"), "node"].nunique() < frame["node"].nunique()
    assert "Group by: method" in str(browser.run("return document.body.innerText"))
    browser.open("about:blank")
    browser.open(shown.links["jobs, best first"], width=1600)
    assert len(run_names(browser, "Group: domains/apple")) == frame["node"].nunique()
    browser.open("about:blank")
    browser.open(shown.links["learning curves"], width=1600)
    browser.wait("return document.body.innerText.includes('Learning curves') && document.body.innerText.includes('validation/loss')")
    browser.wait("return document.querySelector('.js-plotly-plot') !== null")
    browser.open("about:blank")
    browser.open(ui_link(shown.address, experiment, filter_="tags.kind = 'job' and tags.method = 'scalearn'"), width=1600)
    filtered = run_names(browser, "4 matching runs")
    assert len(filtered) == 4
    assert all("/scalearn/" in name for name in filtered)
    browser.open("about:blank")
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(60) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(shown.address.rpartition(":")[2]))) != 0
