"""Where MLflow's file lies and who answers for it: odd names of stores, and ports that two want at once."""

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.tracking import mlflow_server
from orchestrator.tracking.before_run import is_deleted
from orchestrator.tracking.mlflow_server import Server, tracked_experiment
from orchestrator.tracking.sqlite_address import sqlite_file, sqlite_uri
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.small_sweep import small_store
from tests.ports import free_ports

ODD = ("per%20cent", "que?ry", "ha#sh", "a b", "quo'te\"", "jürgen", "a@b:c+d", "back\\slash")


@pytest.mark.parametrize("name", ODD)
def test_file_of_any_name_is_found_again_by_its_address(tmp_path, name):
    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(file)) == file
    assert sqlite_file(f"{sqlite_uri(file)}?timeout=5") == file


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "postgresql://me@db/runs", "http://x"])
def test_what_is_no_file_has_none(uri):
    assert sqlite_file(uri) is None


def test_address_of_an_ordinary_file_is_as_people_write_it():
    assert sqlite_uri(Path("/home/jürgen/my runs/mlflow.db")) == "sqlite:////home/jürgen/my runs/mlflow.db"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["per%20cent", "que?ry#"])
def test_sweep_is_logged_in_a_store_whose_name_means_something_else_in_an_address(tmp_path, capsys, name):
    file, store, graph = small_store(tmp_path / name)
    run_jobs(graph, store)
    for _ in range(2):
        assert main(["run", str(file), "--store", str(store.root)]) == 0
        output = capsys.readouterr().out
        assert "not in MLflow" not in output
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()} == {name}
    uri = sqlite_uri(store.root / "mlflow.db")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    assert len(client.search_runs([experiment])) == 1 + len(graph)
    assert tracked_experiment(store, "small").uri == uri
    client.delete_experiment(experiment)
    assert is_deleted(uri, "small")


@pytest.mark.slow
@pytest.mark.parametrize("copied", [True, False])
def test_store_that_is_copied_or_moved_logs_its_report_beside_itself_alone(tmp_path, repository, copied):
    file, store, graph = small_store(tmp_path / "first")
    run_jobs(graph, store)
    assert main(["run", str(file), "--store", str(store.root)]) == 0
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    other = tmp_path / "second" / "runs"
    if copied:
        shutil.copytree(store.root, other)
    else:
        other.parent.mkdir()
        store.root.rename(other)
    assert tracked_experiment(Store(other), "small").uri == sqlite_uri(other / "mlflow.db")
    # A process of its own: MLflow remembers where a run's artifacts are.
    again = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--store", str(other)]
    assert subprocess.run(again, cwd=repository, timeout=600).returncode == 0
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == (before if copied else {})
    client = MlflowClient(sqlite_uri(other / "mlflow.db"))
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert {run.info.artifact_uri for run in runs} == {
        (other / "mlflow-artifacts" / run.info.run_id / "artifacts").as_uri() for run in runs
    }
    (sweeps,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    assert str(other) in Path(client.download_artifacts(sweeps.info.run_id, "manifest.json", str(tmp_path))).read_text()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two tracking stores, each with an experiment of its own."""
    found = []
    for name in ("first", "second"):
        found.append(f"sqlite:///{tmp_path / name}.db")
        MlflowClient(found[-1]).create_experiment(name)
    return found


def experiments(server: Server) -> set[str]:
    request = urllib.request.Request(
        f"{server.address}/api/2.0/mlflow/experiments/search",
        json.dumps({"max_results": 9}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {experiment["name"] for experiment in json.load(answer)["experiments"]}


@pytest.mark.slow
@pytest.mark.fault
def test_servers_that_choose_one_port_at_once_show_each_its_own_runs(files, monkeypatch):
    monkeypatch.setattr(mlflow_server, "PORT", free_ports(1)[0])
    servers = [Server(uri, None) for uri in files]
    assert servers[0].address == servers[1].address
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        assert [experiments(server) - {"Default"} for server in servers] == [{"first"}, {"second"}]


@pytest.mark.slow
@pytest.mark.fault
def test_server_whose_port_another_takes_meanwhile_says_so(files):
    (port,) = free_ports(1)
    first, second = Server(files[0], port), Server(files[1], port)
    with first, pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 is taken"), second:
        pass
