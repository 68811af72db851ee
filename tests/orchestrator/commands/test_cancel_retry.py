"""Stopping a sweep from elsewhere, and running what failed: real drivers and a real local Ray; training is a double."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.commands.retry import failed_part
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.events import Journal
from orchestrator.drivers.heartbeat import drivers
from tests.orchestrator.helpers.doubles import behave, run_jobs, source, transfer
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import family, survivors, wait_until, wait_while_running
from tests.orchestrator.helpers.read_events import all_events


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP)
    return Store(tmp_path / "runs")


def graph_of_two_failures() -> Graph:
    """`both` needs the two sources that fail, `first` one of them, and `other` one of them and one that was never tried."""
    bad, worse, untried = source("s0"), source("s1"), source("s2")
    return Graph([transfer("both", [bad, worse]), transfer("first", [bad]), transfer("other", [bad, untried]), transfer("free", [untried])])


def test_failed_part_is_what_failed_and_what_waits_for_nothing_else(store):
    behave(store, ("s[01]/", {"error": "no"}))
    graph = graph_of_two_failures()
    run_jobs(Graph([source("s0"), source("s1")]), store)
    names = {job.config.task.rpartition("/")[2]: job.node for job in graph}
    assert set(failed_part(graph, store)) == {names[name] for name in ("s0", "s1", "both", "first")}
    assert set(failed_part(graph, store, only="s0/")) == {names[name] for name in ("s0", "first")}
    assert failed_part(graph, store, only="free") == ()
    kept = graph.keep(failed_part(graph, store, only="s0/"))
    assert set(kept.nodes()) == {names["s0"], names["first"]}


def test_retry_without_failures_says_so_and_runs_nothing(store, capsys):
    assert main(["retry", "toy.yaml"]) == 0
    assert capsys.readouterr().out == "No job failed. 10 jobs have not run yet: `scalearn run` runs them.\n"
    assert main(["retry", "toy.yaml", "--only", "("]) == 2
    assert not store.root.exists()


def test_cancel_without_a_driver_says_so(store, capsys):
    assert main(["cancel", "toy.yaml"]) == 0
    assert capsys.readouterr().out == f"No driver is at work on sweep toy in {store.root}.\n"


def test_cancel_of_a_driver_that_does_not_listen_says_that_it_goes_on(store, capsys):
    with Journal(store, "toy", Sweep.load("toy.yaml").expand(), on_cancel=lambda: False):
        assert main(["cancel", "toy.yaml", "--wait", "0.1"]) == 1
    assert "is still at work" in capsys.readouterr().out


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    wait_while_running(process, condition, lambda: process.communicate() if process.poll() is not None else "waited in vain", 600)


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command as a process of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.orchestrator.helpers.command", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.mark.slow
@pytest.mark.fault
def test_cancel_stops_a_run_from_elsewhere_and_retry_mends_only_what_failed(store, start, capsys):
    graph = Sweep.load("toy.yaml").expand()
    failing = next(node for node in graph.nodes() if "adapter/apple/" in node)
    slow = next(node for node in graph.nodes() if "adapter/bbc/" in node)
    behave(store, ("adapter/apple/", {"error": "The loss became nan."}), ("adapter/bbc/", {"seconds": 0.2, "epochs": 10000}))
    process = start("run", "toy.yaml")
    checkpoint = store.directory(slow) / "checkpoint" / "epoch"
    # A driver says every few seconds what it runs.
    wait_for(
        lambda: store.state(failing) == "failed" and checkpoint.exists() and any(slow in each.running for each in drivers(store, "toy")),
        process,
    )

    assert main(["status", "toy.yaml", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    (job,) = [job for job in status["nodes"] if job["node"] == slow]
    assert (job["state"], job["driver"].endswith(f"process {process.pid}")) == ("running", True)
    assert job["epoch"] >= 1
    worker = family(json.loads((store.directory(slow) / "run.log").read_text())["pid"])
    assert main(["cancel", "toy.yaml"]) == 0
    assert f"process {process.pid}, has stopped." in capsys.readouterr().out
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "MLflow: sqlite:///" in out
    assert "Ray dashboard: off" in out
    assert drivers(store, "toy") == []
    assert {"begin", "state", "cancel", "end"} == {event["event"] for event in all_events(store, "toy")}

    wait_until(lambda: not survivors(worker))  # one that the machine kept waiting writes an epoch more
    chosen = failed_part(graph, store)
    reached, attempts = checkpoint.read_text(), store.read_json(slow, "job.json")["attempts"]
    behave(store)
    process = start("retry", "toy.yaml")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert failing in chosen
    assert {store.state(node) for node in chosen} == {"succeeded"}
    assert (checkpoint.read_text(), store.read_json(slow, "job.json")["attempts"]) == (reached, attempts)


@pytest.mark.slow
@pytest.mark.fault
def test_cancel_beside_a_retry_stops_both_drivers_and_the_next_run_finishes(store, start, shared_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", shared_ray)
    graph = Sweep.load("toy.yaml").expand()
    failing, slow = (next(node for node in graph.nodes() if part in node) for part in ("adapter/apple/", "adapter/bbc/"))
    endless = {"seconds": 0.2, "epochs": 10000}
    behave(store, ("adapter/apple/", {"error": "The loss became nan."}), ("adapter/bbc/", endless))
    running = start("run", "toy.yaml")
    wait_for(lambda: store.state(failing) == "failed" and (store.directory(slow) / "checkpoint" / "epoch").exists(), running)
    behave(store, ("adapter/apple/|adapter/bbc/", endless))
    retrying = start("retry", "toy.yaml")
    wait_for(lambda: any(each.pid == retrying.pid and failing in each.running for each in drivers(store, "toy")), retrying)
    wait_for(lambda: store.read_json(failing, "job.json")["attempts"] == 2, retrying)  # handed out is not yet begun
    assert {each.pid for each in drivers(store, "toy")} == {running.pid, retrying.pid}
    assert main(["cancel", "toy.yaml"]) == 0
    for process in (running, retrying):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130, out
    assert drivers(store, "toy") == []
    assert {store.state(node) for node in (failing, slow)} == {"pending"}
    behave(store)
    last = start("run", "toy.yaml")
    out, _ = last.communicate(timeout=300)
    assert last.returncode == 0, out
    assert {store.state(node) for node in graph.nodes()} == {"succeeded"}
