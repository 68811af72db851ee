"""Passwords and tokens in what a run is given: nothing that it prints or stores holds one, and it logs with them all the same."""

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

import analysis
from orchestrator import provenance
from orchestrator.artifacts.job_log import LOG
from orchestrator.artifacts.store import FAILED, JOB, TRACEBACK, Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from scalearn.secrets import clause, first_line, without_secrets
from scalearn.training.pack import Outcome, PackMember, Report
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import behave, train
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.tracking_server import Server

PASSWORD, TOKEN = "hunter2-in-the-address", "a-token-of-the-environment"
ADDRESS = f"postgresql://me:{PASSWORD}@db/runs"


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
        ("postgresql://me@server:secret@db/runs", "postgresql://me@server:***@db/runs"),
        ("http://me@company:secret@host", "http://***@company:***@host"),
        ("uri: postgresql://me:it's secret@db/runs", "uri: postgresql://me:***@db/runs"),
        (f"postgresql://me:{'token' * 400}@db/runs, then a@b", "postgresql://me:***@db/runs, then a@b"),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret%3BServer%3Ddb",
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D***%3BServer%3Ddb",
        ),
        ("mssql+pyodbc:///?odbc_connect=PWD%3D%7Bsec%3Bret%7D", "mssql+pyodbc:///?odbc_connect=PWD%3D***"),
        ("DRIVER=x;PWD={secret};SERVER=db", "DRIVER=x;PWD=***;SERVER=db"),
    ],
)
def test_secret_is_masked_by_its_place(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("It is torn.\nSee the manual.", "It is torn."),
        ("\n\n  away: postgresql://me:secret@db/runs \n", "away: postgresql://me:***@db/runs"),
        ("", "ValueError"),
        (" \n\t", "ValueError"),
    ],
)
def test_first_line_of_an_error_says_something_and_holds_no_secret(message, line):
    assert first_line(ValueError(message)) == line
    assert clause(ValueError(message)) == line.rstrip(".")


def test_endless_message_is_cut_within_a_sentence():
    assert len(first_line("x" * 10_000)) == 10_000
    assert len(clause(ValueError("x" * 10_000))) == 300


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@db:5432/runs",
        "s3://bucket/runs@1",
        "sqlite:////tmp/a@b/mlflow.db",
        "git@github.com:owner/repository",
        "google/bert@main, tokens: 30, max_tokens=30, tokenizer=Bert(name)",
        "http://127.0.0.1:5000, me@host",
        "'http://127.0.0.1:5000','me@host'",
        "http://host:x\nme@host",
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
    for piece in ("x://a:", "a.", "token", "?a", "'a", "://", "x://a:'", "x://a:\n", "pwd={", "pwd%3D%7B"):
        assert PASSWORD in without_secrets(piece * 50_000 + " " + PASSWORD + "\na@b")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(f"sqlite:///{tmp_path / 'server.db'}", tmp_path)
    found.start()
    yield found
    found.kill()


def train_all(file: Path, store: Store, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Graph:
    """Leave what workers leave of a run with these overrides; one job's training says an address, and another fails for one."""
    monkeypatch.setattr(sys, "argv", ["scalearn", "run", str(file), *(word for override in overrides for word in ("--set", override))])
    sweep = Sweep.load(file, overrides)
    graph, facts = sweep.expand(), provenance.capture(str(file), overrides)
    for job in graph:
        parents = {parent.source_name: parent.node for parent in job.parents}
        order = MemberOrder(job.node, job.config, {"node": job.node, "provenance": facts}, parents)
        run_pack(PackOrder((order,), str(store.root), "tests.orchestrator.commands.test_secrets:talk", Runtime(), store.root / "stop"))
    return graph


def talk(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Train as the double does, and say what libraries say of an address that they cannot reach."""
    warnings.warn(f"GET {ADDRESS} was refused for {os.environ['HF_TOKEN']}", stacklevel=1)
    return train(pack, runtime, report)


def run(file: Path, store: Store, repository: Path, *flags: str, **environment: str) -> str:
    """Run a sweep of which all jobs are done, so that no Ray is needed; returns what it printed."""
    command = [sys.executable, "-m", "tests.orchestrator.helpers.command", "run", str(file), "--store", str(store.root), *flags]
    given = {"PYTHONPATH": str(repository), "HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": TOKEN, **environment}
    done = subprocess.run(command, cwd=repository, env={**os.environ, **given}, capture_output=True, text=True, timeout=900)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "not in MLflow yet" not in output
    assert PASSWORD not in output
    assert TOKEN not in output
    return output


def holders(*places: Path) -> list[str]:
    """The files that hold a secret."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert len(files) > 20
    secrets = (PASSWORD.encode(), TOKEN.encode())
    return [str(file) for file in files if file.name != "behaviour.json" and any(secret in file.read_bytes() for secret in secrets)]


def test_job_that_fails_for_an_address_leaves_no_secret_in_its_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "toy.yaml").write_text(SWEEP)
    store = Store(tmp_path / "runs")
    behave(store, ("adapter/bbc/", {"error": f"There is nobody at {ADDRESS}."}), ("adapter/apple/", {"crash": f"{TOKEN}: no {ADDRESS}"}))
    graph = train_all(tmp_path / "toy.yaml", store, monkeypatch, f"tracking.uri={ADDRESS}")
    failed, crashed = (next(node for node in graph.nodes() if part in node) for part in ("adapter/bbc/", "adapter/apple/"))
    assert store.read_json(failed, FAILED)["error"] == "There is nobody at postgresql://me:***@db/runs."
    assert "RuntimeError: ***: no postgresql://me:***@db/runs" in (store.directory(crashed) / TRACEBACK).read_text()
    assert "GET postgresql://me:***@db/runs was refused for ***" in (store.directory(failed) / LOG).read_text()
    assert "tracking.uri=postgresql://me:***@db/runs" in store.read_json(failed, JOB)["provenance"]["argv"]
    assert holders(tmp_path / "runs") == []


@pytest.mark.slow
def test_run_that_logs_to_a_server_with_a_password_stores_it_nowhere(server, tmp_path, repository, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = server.uri.replace("http://", f"http://me:{PASSWORD}@")
    file, store = tmp_path / "toy.yaml", Store(tmp_path / "runs")
    file.write_text(SWEEP)
    graph = train_all(file, store, monkeypatch, f"tracking.uri={address}")
    told = server.uri.replace("http://", "http://me:***@")
    assert f"MLflow:     {told}" in run(file, store, repository, "--set", f"tracking.uri={address}")
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * (len(graph) + 1)
    assert holders(store.root, tmp_path / "artifacts", tmp_path / "server.db") == []

    arguments = ["ui", str(file), "--store", str(store.root)]
    assert main([*arguments, "--set", f"tracking.uri={address}"]) == 0
    shown = capsys.readouterr()
    assert f"{server.uri}/#/experiments/" in shown.out
    assert PASSWORD not in shown.out + shown.err
    assert main(arguments) == 2
    assert f"are at {told}, and no file of the store holds the password: set MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert main(["ui", f"{store.root}/sweeps/toy.json"]) == 0


@pytest.mark.slow
def test_run_that_logs_to_postgresql_with_a_password_stores_it_nowhere_and_ui_shows_it(postgres, tmp_path, repository, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = postgres.replace("://mlflow@", f"://mlflow:{PASSWORD}@") + f"?application_name=toy&sslpassword={PASSWORD}"
    file, store = tmp_path / "toy.yaml", Store(tmp_path / "runs")
    file.write_text(f"{SWEEP}tracking: {{uri: '{address}', experiment: secret}}\n")
    train_all(file, store, monkeypatch)
    run(file, store, repository)
    assert holders(store.root) == []
    told = address.replace(PASSWORD, "***")
    manifest = store.load_json(store.manifest_path("toy"))
    assert (manifest["tracking_uri"], told in manifest["yaml"]) == (told, True)
    engine = sqlalchemy.create_engine(postgres)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(table.select())]
    assert sum("'state', 'succeeded'" in row for row in rows) == 10
    assert not [row for row in rows if PASSWORD in row or TOKEN in row]

    command = [sys.executable, "-m", "tests.orchestrator.helpers.command", "ui", str(tmp_path / "runs" / "sweeps" / "toy.json")]
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


def test_sentence_about_a_tracking_server_masks_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(analysis.ResultsError) as raised:
        analysis.load(f"http://me:{PASSWORD}@127.0.0.1:1", "toy")
    assert "http://me:***@127.0.0.1:1" in str(raised.value)
    assert PASSWORD not in str(raised.value)
    store = Store(tmp_path / "runs")
    store.fail("a/b", f"no way to http://me:{PASSWORD}@host", f"Traceback\nhttp://me:{PASSWORD}@host")
    assert PASSWORD.encode() not in b"".join(file.read_bytes() for file in store.directory("a/b").iterdir())
