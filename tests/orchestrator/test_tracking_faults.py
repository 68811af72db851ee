"""Tracking against a real `mlflow server` that is away, is killed and restarted, or stops answering: on SQLite and on PostgreSQL.

Jobs are doubles and run in this process, one after the other, or, in one test, on Ray; what is asserted is that jobs are done while the
server is still away, and that everything arrives later, exactly once.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.definition.graph import Graph
from orchestrator.storage.store import Store
from orchestrator.tracking import writer
from orchestrator.tracking.mlflow_runs import SweepRuns
from orchestrator.tracking.writer import Target, Tracker
from tests.orchestrator.doubles import behave, run_jobs, two_stages
from tests.orchestrator.launch import SWEEP
from tests.orchestrator.launching import Launch
from tests.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy server answer late. The tracker sets what is not set, for the rest of this process."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, f"not within 240 s: {what}"
        time.sleep(0.1)


class Server:
    """`mlflow server` on loopback, which can be killed, stopped and started again on the same port and database."""

    def __init__(self, database: str, directory: Path) -> None:
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = directory / "server.log"
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--host", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--workers", "1", "--artifacts-destination", str(directory / "artifacts")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:  # a session of its own, so that a signal reaches its workers too, and nobody else
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, f"the server is up\n{self._log.read_text()}")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            # Its health says nothing of the database, which the first question opens.
            with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def unprivileged() -> tuple[list[str], int, int]:
    """How to run a program as another user where we are root, which PostgreSQL refuses to be; that user and group."""
    if os.geteuid() != 0:
        return [], os.geteuid(), os.getegid()
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known.get("nobody")
    if entry is None or shutil.which("setpriv") is None:
        pytest.skip("root cannot run PostgreSQL, and there is no other user or no setpriv")
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"], entry.pw_uid, entry.pw_gid


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A private PostgreSQL on loopback."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("needs Debian's package postgresql")
    prefix, user, group = unprivileged()
    root = Path(tempfile.mkdtemp(prefix="scalearn-postgres-"))  # not below pytest's directories, which are for their owner alone
    os.chown(root, user, group)
    data, (port,) = root / "data", free_ports(1)
    made = [*prefix, str(programs[-1] / "initdb"), "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync"]
    subprocess.run(made, cwd=root, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={root}", "fsync=off"]
    command = [*prefix, str(programs[-1] / "postgres"), "-D", str(data), *(word for setting in settings for word in ("-c", setting))]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ready = [str(programs[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: process.poll() is not None or subprocess.run(ready).returncode == 0, "PostgreSQL accepts connections")
        assert process.poll() is None, (root / "log").read_text()
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # its fast shutdown
        process.wait(60)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    database = f"sqlite:///{directory / 'mlflow.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")
    found = Server(database, directory)
    yield found
    found.kill()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(writer, "_INTERVAL", 0.1)
    monkeypatch.setattr(writer, "_LONGEST_PAUSE", 0.5)
    store = Store(tmp_path / "runs")
    behave(store, (".", {"seconds": 0.0}))
    return store


class Sweep:
    """Jobs that run in order while the tracker follows them, in the role of the searcher."""

    def __init__(self, store: Store, server: Server, name: str) -> None:
        self.graph, self.store, self.name = two_stages(sources=2, targets=4), store, name
        self.nodes = list(self.graph.nodes())
        self.tracker = Tracker(Target.of(server.uri, name, name, "", store), self.graph, store)
        self.tracker.start()

    def train(self, count: int) -> None:
        for node in self.nodes[:count]:
            self.tracker.listen(node, "running")
            part = self.graph.keep([node])
            for parent in self.graph.parents(node):
                part.mark(parent, "succeeded")
            run_jobs(Graph([part.job(node)]) if not self.graph.parents(node) else part, self.store)
            self.graph.mark(node, "succeeded")
            self.tracker.listen(node, "succeeded")
        del self.nodes[:count]

    @property
    def done(self) -> int:
        return sum(self.store.complete(node) for node in self.graph.nodes())


def arrived(server: Server, name: str) -> dict[str, tuple[str, int]]:
    """Status and number of logged evaluations of every run of an experiment, none of which may be there twice."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    jobs = [run for run in runs if run.data.tags["kind"] == "job"]
    assert len(runs) - len(jobs) <= 1, "the sweep has several runs"
    assert len({run.data.tags["node"] for run in jobs}) == len(jobs), "a job has several runs"
    counts = {run.info.run_id: len(client.get_metric_history(run.info.run_id, "train_loss")) for run in jobs}
    return {run.data.tags["node"]: (run.info.status, counts[run.info.run_id]) for run in jobs}


def test_server_away_from_the_start_killed_in_mid_run_and_stuck_gets_everything_once(server, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    sweep = Sweep(store, server, "toy")
    sweep.train(2)
    wait_until(lambda: sweep.tracker.problem, "the tracker has noticed that nobody listens")
    assert (sweep.done, server.is_up) == (2, False)

    server.start()
    wait_until(lambda: sweep.tracker.problem is None and sweep.tracker.run_id, "the tracker has found the server")
    sweep.train(1)
    server.kill()
    sweep.train(1)
    assert (sweep.done, server.is_up) == (4, False)
    wait_until(lambda: sweep.tracker.problem, "the tracker has noticed that the server is gone")

    server.start()
    wait_until(lambda: sweep.tracker.problem is None, "the tracker has found the server again")
    server.signal(signal.SIGSTOP)
    sweep.train(2)
    wait_until(lambda: sweep.tracker.problem, "the tracker has noticed that nobody answers")
    assert sweep.done == len(sweep.graph)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    server.signal(signal.SIGCONT)

    assert sweep.tracker.finish("FINISHED", patience=240) == 0
    assert arrived(server, sweep.name) == dict.fromkeys(sweep.graph.nodes(), ("FINISHED", 2))


def test_server_that_stays_away_keeps_nobody_waiting_and_the_next_run_logs_it_all(server, store):
    server.kill()
    sweep = Sweep(store, server, "later")
    sweep.train(6)
    assert sweep.tracker.finish("FINISHED", patience=240) == len(sweep.graph) == sweep.done
    server.start()
    again = Tracker(sweep.tracker.target, sweep.graph, store)
    for node in again.untracked(sweep.graph.nodes()):
        again.add(node)
    again.start()
    assert again.finish("FINISHED", patience=240) == 0
    assert arrived(server, sweep.name) == dict.fromkeys(sweep.graph.nodes(), ("FINISHED", 2))
    assert again.untracked(sweep.graph.nodes()) == []


def test_runs_that_a_late_answer_created_twice_are_joined_at_the_end(server, store):
    if not server.is_up:
        server.start()
    sweep = Sweep(store, server, "twins")
    sweep.train(1)
    wait_until(lambda: sweep.tracker.run_id and not sweep.tracker._open, "the first job is logged")
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("twins").experiment_id
    for run in client.search_runs([experiment]):
        late = {**run.data.tags, "logged_step": "", "state": "opening"} if run.data.tags["kind"] == "job" else run.data.tags
        client.create_run(experiment, tags={key: value for key, value in late.items() if not key.startswith("mlflow.runName")})
    with pytest.raises(AssertionError):
        arrived(server, sweep.name)
    sweep.train(5)
    assert sweep.tracker.finish("FINISHED", patience=240) == 0
    assert arrived(server, sweep.name) == dict.fromkeys(sweep.graph.nodes(), ("FINISHED", 2))
    assert SweepRuns(server.uri, "twins", "twins", "", store.root).run_id == sweep.tracker.run_id


def hang_up_on_the_next_call(port: int) -> None:
    """Take a killed server's place until somebody has called in vain."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def is_free() -> bool:  # the kernel may be at work on the killed one's sockets
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
        return bool(listener.getsockname()[1])

    with listener:
        wait_until(is_free, "the killed server's port is free")
        listener.listen()
        listener.settimeout(240)
        listener.accept()[0].close()


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_run_whose_server_is_killed_and_restarted_goes_on_and_leaves_each_job_once(server, tmp_path, repository, shared_ray):
    if not server.is_up:
        server.start()
    launch = Launch(tmp_path, repository, SWEEP.replace("name: toy", "name: launched"), "launched")
    first, last = launch.node("source/adapter/bbc"), launch.node("scalearn/bbc/lr6e-03-seed1")
    behave(
        launch.store,
        (".", {"epochs": 3}),
        (re.escape(first), {"hold": {"epoch": 2, "until": "killed"}}),
        (re.escape(last), {"hold": {"epoch": 2, "until": "back"}}),
    )
    run = launch.start(RAY_ADDRESS=shared_ray, MLFLOW_TRACKING_URI=server.uri)
    try:
        wait_until(lambda: arrived(server, "launched").get(first) == ("RUNNING", 1), "the server has half of a job")
        server.kill()
        (launch.store.root / "killed").touch()
        hang_up_on_the_next_call(server.port)
        wait_until(
            lambda: list(launch.states().values()).count("succeeded") == len(launch.graph()) - 1, "all jobs but the held one are done"
        )
        assert not server.is_up
        server.start()
        (launch.store.root / "back").touch()
        out, err = run.communicate(timeout=300)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 0, out + err
    assert "not in MLflow yet" not in out
    assert set(launch.attempts().values()) == {1}
    assert arrived(server, "launched") == dict.fromkeys(launch.graph().nodes(), ("FINISHED", 3))
