"""What a run says of its tracking store before anything begins: a directory is refused, a deleted experiment is told of."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.cli import main
from orchestrator.tracking.before_run import check_tracking_uri, is_deleted
from orchestrator.tracking.mlflow_server import Server
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.small_sweep import SWEEP, small_store


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "FILE:///x", "./mlruns", "mlruns", "/srv/mlruns"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_directory_as_tracking_store_is_refused_before_anything_is_written(
    uri: str, by_environment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SWEEP)
    if by_environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["run", "small.yaml", *([] if by_environment else ["--set", f"tracking.uri={uri}"])]) == 2
    line = capsys.readouterr().err
    assert line.startswith(
        f"scalearn: MLflow does not log to a directory such as {uri}: give tracking.uri or MLFLOW_TRACKING_URI a database"
    )
    assert line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    "uri", ["http://localhost:5000", "https://h/x", "sqlite:///x.db", "postgresql+psycopg2://u@h/d", "databricks", "databricks://p"]
)
def test_database_or_server_as_tracking_store_is_taken(uri: str) -> None:
    check_tracking_uri(uri)


def test_deleted_experiment_is_told_of_and_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store, graph = small_store(tmp_path / "small")
    run_jobs(graph, store)
    uri = f"sqlite:///{store.root / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("small")
    assert not is_deleted(uri, "small")
    client.delete_experiment(experiment)
    assert is_deleted(uri, "small")
    assert main(["run", str(file), "--store", str(store.root)]) == 0
    sentence = "The MLflow experiment 'small' was deleted: logging to it restores it, with its runs."
    assert sentence in capsys.readouterr().out
    assert client.get_experiment_by_name("small").lifecycle_stage == "active"
    assert len(client.search_runs([experiment])) == 1 + len(graph)
    assert main(["run", str(file), "--store", str(store.root)]) == 0
    assert sentence not in capsys.readouterr().out


@pytest.mark.slow
def test_deleted_experiment_of_a_server_is_told_of(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_experiment("kept")
    client.delete_experiment(client.create_experiment("gone"))
    with Server(uri, None) as server:
        assert [is_deleted(server.address, name) for name in ("kept", "gone", "absent")] == [False, True, False]
    assert not is_deleted(server.address, "gone")


@pytest.mark.parametrize("content", [None, b"", b"no database" * 100])
def test_store_that_is_not_there_or_broken_deletes_nothing(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    if content is not None:
        file.write_bytes(content)
    assert not is_deleted(f"sqlite:///{file}", "small")
    assert file.exists() == (content is not None)
