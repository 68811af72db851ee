"""How far a sweep is, from files alone; and what the driver leaves for that."""

import io
import json
import os
import time

import pytest
from rich.console import Console

from orchestrator.journal import DRIVERS, EVENTS, Journal, drivers, events, running_nodes
from orchestrator.status import print_status, read_status
from orchestrator.store import Store
from tests.orchestrator.doubles import behave, run_jobs, two_stages


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def states(status):
    return {job.node: job.state for job in status.jobs}


def test_status_names_failures_and_what_they_block(store):
    behave(store, ("s0/", {"error": "The loss became nan."}))
    run_jobs(two_stages(), store)
    graph = two_stages()
    status = read_status("toy", graph, store)
    failed = graph.nodes()[0]
    assert states(status)[failed] == "failed"
    assert {job.error for job in status.jobs if job.state == "blocked"} == {f"its parent {failed} failed"}
    assert status.to_json()["jobs"]["by_state"] == {"failed": 1, "succeeded": 3, "blocked": 3}
    console = Console(width=200, record=True, file=io.StringIO())
    print_status(status, console)
    text = console.export_text()
    assert f"failed   {failed}: The loss became nan. ({store.directory(failed) / 'traceback.txt'})" in text


def begin(store, graph):
    """A job under way: begun, one evaluation made."""
    node = graph.nodes()[0]
    record = {"step": 10, "total_steps": 40, "time": 1.0, "seconds": 5.0, "epoch": 1.0, "validation": {"loss": 0.5, "accuracy": 0.75}}
    (store.begin(node, {}) / "history.jsonl").write_text(json.dumps(record) + "\n")
    graph.mark(node, "running")
    return node


def test_status_of_a_live_driver_shows_running_jobs_with_step_and_score(store):
    driven = two_stages()
    node = begin(store, driven)
    with Journal(store, "toy", driven):
        status = read_status("toy", two_stages(), store)
    assert status.running
    (job,) = [job for job in status.jobs if job.state == "running"]
    assert (job.node, job.step, job.total_steps, job.score) == (node, 10, 40, "validation loss 0.5, accuracy 0.75")
    assert read_status("toy", two_stages(), store).running is False


def test_status_ignores_a_driver_that_was_killed_long_ago(store):
    node = begin(store, two_stages())
    sign = {"time": time.time() - 3600, "host": "gone", "pid": 1, "running": [node]}
    store.write_json(store.sidecar("toy", f"{DRIVERS}/gone-1-x.json"), sign)
    assert states(read_status("toy", two_stages(), store))[node] == "pending"


def test_status_joins_what_two_drivers_run(store):
    first, second = two_stages(), two_stages()
    nodes = [graph.nodes()[index] for index, graph in enumerate((first, second))]
    first.mark(nodes[0], "running")
    second.mark(nodes[1], "running")
    with Journal(store, "toy", first), Journal(store, "toy", second):
        assert sorted(running_nodes(store, "toy")) == sorted(nodes)
        assert {driver.pid for driver in drivers(store, "toy")} == {os.getpid()}
    assert drivers(store, "toy") == []


def test_journal_logs_every_change_between_begin_and_end(store):
    behave(store, ("s0/", {"error": "The loss became nan."}))
    graph = two_stages()
    with Journal(store, "toy", graph) as journal:
        run_jobs(graph, store)
        done, failed = graph.nodes()[1], graph.nodes()[0]
        for node in (done, failed):
            journal.listen(node, "running")
        journal.listen(done, "succeeded")
        journal.listen(failed, "failed")
    logged = events(store.sidecar("toy", EVENTS))
    blocked = [node for node, state in graph.states.items() if state == "blocked"]
    assert [event.get("state", event["event"]) for event in logged] == [
        *("begin", "running", "running", "succeeded", "failed"),
        *["blocked"] * len(blocked),
        "end",
    ]
    assert logged[4] == {"time": logged[4]["time"], "event": "state", "node": failed, "state": "failed"} | {
        "error": "The loss became nan.",
        "attempts": 1,
    }
    assert logged[3]["timing"] == {"train_seconds": 0.1, "evaluate_seconds": 0.1, "load_seconds": 0.1}
    assert {event["node"]: event["by"] for event in logged if event.get("state") == "blocked"} == dict.fromkeys(blocked, failed)
    assert (logged[0]["pid"], logged[0]["driver"]) == (os.getpid(), logged[-1]["driver"])


@pytest.mark.fault
def test_journal_writes_later_what_the_store_refused(store, monkeypatch):
    graph = two_stages()
    with Journal(store, "toy", graph) as journal:
        log = store.sidecar("toy", EVENTS)
        log.rename(log.with_suffix(".away"))
        log.mkdir()  # a file that cannot be written to, for root too
        journal.note("state", node="x", state="running")
        log.rmdir()
        log.with_suffix(".away").rename(log)
    assert [event["event"] for event in events(store.sidecar("toy", EVENTS))] == ["begin", "state", "end"]
