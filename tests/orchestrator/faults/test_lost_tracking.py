"""Tracking against a real `mlflow server` that is away, is killed and restarted, or stops answering: on SQLite and on PostgreSQL.

Jobs are doubles and run in this process, one after the other, or, in one test, on Ray; what is asserted is that jobs are done while the
server is still away, and that everything arrives later, exactly once.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.tracking import writer
from orchestrator.tracking.mlflow_runs import SweepRuns
from orchestrator.tracking.writer import Target, Tracker
from tests.orchestrator.helpers.doubles import behave, run_jobs, two_stages
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import Launch, finished
from tests.orchestrator.helpers.tracking_server import Server, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy server answer late. The tracker sets what is not set, for the rest of this process."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")


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


def arrived(server: Server, name: str, *, once: bool = True) -> dict[str, tuple[str, int]]:
    """Status and number of logged evaluations of every run of an experiment, none of which may be there twice."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    jobs = [run for run in runs if run.data.tags["kind"] == "job"]
    if once:
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
    sweep = Sweep(store, server, "duplicates")
    sweep.train(1)
    wait_until(lambda: sweep.tracker.run_id and not sweep.tracker._open, "the first job is logged")
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("duplicates").experiment_id
    for run in client.search_runs([experiment]):
        late = {**run.data.tags, "logged_step": "", "state": "opening"} if run.data.tags["kind"] == "job" else run.data.tags
        client.create_run(experiment, tags={key: value for key, value in late.items() if not key.startswith("mlflow.runName")})
    with pytest.raises(AssertionError):
        arrived(server, sweep.name)
    sweep.train(5)
    assert sweep.tracker.finish("FINISHED", patience=240) == 0
    assert arrived(server, sweep.name) == dict.fromkeys(sweep.graph.nodes(), ("FINISHED", 2))
    assert SweepRuns(server.uri, "duplicates", "duplicates", "", store.root).run_id == sweep.tracker.run_id


def test_server_killed_while_three_drivers_log_one_store_has_everything_once_when_it_is_back(server, tmp_path, repository):
    if not server.is_up:
        server.start()
    store, graph = Store(tmp_path / "runs"), two_stages(sources=4, targets=12)
    behave(store, (".", {"seconds": 0.0}))
    run_jobs(graph, store)
    gate, environment = tmp_path / "gate", {**os.environ, "PYTHONPATH": str(repository), "MLFLOW_TRACKING_URI": server.uri}
    gate.mkdir()
    command = [sys.executable, "-m", "tests.orchestrator.helpers.log_store", str(store.root), "three", str(gate), "3"]
    drivers = [
        subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        wait_until(lambda: arrived(server, "three", once=False), "the drivers have begun to log")
        server.kill()
        (gate / "killed").touch()
        wait_until(lambda: len(list(gate.glob("problem-*"))) == 3, "every driver has noticed that the server is gone")
        server.start()
        (gate / "end").touch()
        ends = [finished(driver) for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    assert [end.returncode for end in ends] == [0] * 3, [end.stderr for end in ends]
    # A server that has just started may refuse one of three at its very end, which then leaves the rest to the next run.
    later = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert (later.returncode, later.stdout) == (0, "0 left\n"), later.stderr
    assert arrived(server, "three") == dict.fromkeys(graph.nodes(), ("FINISHED", 2))


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
