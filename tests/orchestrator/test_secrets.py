"""Passwords and tokens in what a run is given: nothing that it prints or stores holds one, and it logs with them all the same."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

import analysis
from orchestrator.cli import main
from orchestrator.storage.store import Store
from scalearn.secrets import without_secrets
from tests.orchestrator.doubles import behave
from tests.orchestrator.launch import SWEEP
from tests.orchestrator.launching import finished
from tests.orchestrator.tracking_server import Server

PASSWORD, TOKEN = "hunter2-in-the-address", "a-token-of-the-environment"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("mysql+pymysql://me:s@cr/et@db/runs?charset=utf8", "mysql+pymysql://me:***@db/runs?charset=utf8"),
        (
            "at (http://me:secret@host:5000), http://127.0.0.1:5000/#/x?y=z@w",
            "at (http://me:***@host:5000), http://127.0.0.1:5000/#/x?y=z@w",
        ),
        ("https://ghp_secret@github.com/a/b", "https://***@github.com/a/b"),
        ("postgresql://me@db/runs?password=secret&sslmode=require", "postgresql://me@db/runs?password=***&sslmode=require"),
        ("HF_TOKEN=secret AWS_SECRET_ACCESS_KEY='secret' scalearn run", "HF_TOKEN=*** AWS_SECRET_ACCESS_KEY='***' scalearn run"),
        ('{"env_vars": {"MLFLOW_TRACKING_PASSWORD": "sec\\"ret"}}', '{"env_vars": {"MLFLOW_TRACKING_PASSWORD": "***"}}'),
        ("storage_options={'key': 'AKIA', 'secret': 'secret'}", "storage_options={'key': 'AKIA', 'secret': '***'}"),
        ("Authorization: Bearer secret", "Authorization: Bearer ***"),
        ("host=db user=me password=secret dbname=runs", "host=db user=me password=*** dbname=runs"),
    ],
)
def test_secret_is_masked_by_its_place(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@db:5432/runs",
        "s3://bucket/runs@1",
        "sqlite:////tmp/a@b/mlflow.db",
        "git@github.com:owner/repository",
        "google/bert@main, tokens: 30, max_tokens=30, tokenizer=Bert(name)",
        "12:30:10 5/10 succeeded glue/minilm/transfer/scalearn/rte/lr6e-03-seed0-0123456789 in 3 s",
    ],
)
def test_what_is_no_secret_is_left(text):
    assert without_secrets(text) == text


def test_value_of_a_secret_variable_is_masked_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("HF_TOKEN", "tiny")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsehood")
    assert without_secrets("said correct horse, tiny, falsehood") == "said ***, tiny, falsehood"


def test_text_without_end_is_searched_in_moderate_time():
    """Each of these took minutes with a pattern that looks at the rest of the text from every place in it."""
    for piece in ("x://a:", "a.", "token", "?a", "'a", "://"):
        assert PASSWORD in without_secrets(piece * 50_000 + " " + PASSWORD)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(f"sqlite:///{tmp_path / 'server.db'}", tmp_path)
    found.start()
    yield found
    found.kill()


def run_with(tmp_path: Path, repository: Path, sweep: str, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a sweep of which one job says an address in a warning and another fails for one."""
    (tmp_path / "toy.yaml").write_text(sweep)
    address = f"postgresql://me:{PASSWORD}@db/runs"
    behave(
        Store(tmp_path / "runs"),
        ("adapter/bbc/", {"error": f"There is nobody at {address}."}),
        ("adapter/apple/", {"crash": f"{TOKEN} is not welcome at {address}"}),
    )
    command = [sys.executable, "-m", "tests.orchestrator.command", "run", str(tmp_path / "toy.yaml"), "--store", str(tmp_path / "runs")]
    given = {"PYTHONPATH": str(repository), "HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": TOKEN, **environment}
    process = subprocess.Popen(
        [*command, *flags], cwd=repository, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return finished(process)


def holders(*places: Path) -> list[str]:
    """The files that hold a secret."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert len(files) > 50
    secrets = (PASSWORD.encode(), TOKEN.encode())
    return [str(file) for file in files if file.name != "behaviour.json" and any(secret in file.read_bytes() for secret in secrets)]


@pytest.mark.slow
def test_run_that_logs_to_a_server_with_a_password_stores_and_prints_it_nowhere(
    server, tmp_path, repository, shared_ray, capsys, monkeypatch
):
    address = server.uri.replace("http://", f"http://me:{PASSWORD}@")
    run = run_with(tmp_path, repository, SWEEP, "--set", f"tracking.uri={address}", RAY_ADDRESS=shared_ray)
    assert run.returncode == 1, run.stdout + run.stderr
    assert PASSWORD not in run.stdout + run.stderr
    assert TOKEN not in run.stdout + run.stderr
    told = server.uri.replace("http://", "http://me:***@")
    assert f"MLflow:     {told}" in run.stdout
    assert "There is nobody at postgresql://me:***@db/runs." in run.stdout
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert holders(tmp_path / "runs", tmp_path / "artifacts", tmp_path / "server.db") == []

    file, store = str(tmp_path / "toy.yaml"), str(tmp_path / "runs")
    assert main(["ui", file, "--store", store, "--set", f"tracking.uri={address}"]) == 0
    shown = capsys.readouterr()
    assert f"{server.uri}/#/experiments/" in shown.out
    assert PASSWORD not in shown.out + shown.err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["ui", file, "--store", store]) == 2
    assert f"are at {told}, and no file of the store holds the password: set MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert main(["ui", f"{store}/sweeps/toy.json"]) == 0


@pytest.mark.slow
def test_run_that_logs_to_postgresql_with_a_password_stores_it_nowhere_and_ui_shows_the_runs(postgres, tmp_path, repository, shared_ray):
    address = postgres.replace("://mlflow@", f"://mlflow:{PASSWORD}@") + f"?application_name=toy&sslpassword={PASSWORD}"
    run = run_with(tmp_path, repository, f"{SWEEP}tracking: {{uri: '{address}', experiment: secret}}\n", RAY_ADDRESS=shared_ray)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "not in MLflow yet" not in run.stdout
    assert PASSWORD not in run.stdout + run.stderr
    assert TOKEN not in run.stdout + run.stderr
    assert holders(tmp_path / "runs") == []
    engine = sqlalchemy.create_engine(postgres)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(table.select())]
    assert any("nobody at postgresql://me:***@db/runs" in row for row in rows)
    assert not [row for row in rows if PASSWORD in row or TOKEN in row]

    command = [sys.executable, "-m", "tests.orchestrator.command", "ui", str(tmp_path / "runs" / "sweeps" / "toy.json")]
    environment = {**os.environ, "PYTHONPATH": str(repository), "MLFLOW_TRACKING_URI": address}
    ui = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in ui.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert ui.poll() is None, lines
        assert re.search(r"http://127.0.0.1:\d+/#/experiments/\d+", "".join(lines))
        assert PASSWORD not in "".join(lines)
        arguments = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if os.access(file, os.R_OK)]
        assert not [words for words in arguments if PASSWORD.encode() in words]
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=300)
    assert ui.returncode == 0


def test_sentence_about_a_tracking_server_masks_its_password(tmp_path):
    with pytest.raises(analysis.ResultsError) as raised:
        analysis.load(f"http://me:{PASSWORD}@127.0.0.1:1", "toy")
    assert "http://me:***@127.0.0.1:1" in str(raised.value)
    assert PASSWORD not in str(raised.value)
    store = Store(tmp_path / "runs")
    store.fail("a/b", f"no way to http://me:{PASSWORD}@host", f"Traceback\nhttp://me:{PASSWORD}@host")
    assert PASSWORD.encode() not in b"".join(file.read_bytes() for file in store.directory("a/b").iterdir())
