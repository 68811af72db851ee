"""How far a sweep is, from files alone; and what the driver leaves for that."""

import io
import json
import time

import pytest
from rich.console import Console

from orchestrator.journal import DRIVER, EVENTS, Journal, events
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
        deadline = time.monotonic() + 30
        while not store.sidecar("toy", DRIVER).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        status = read_status("toy", two_stages(), store)
    assert status.running
    (job,) = [job for job in status.jobs if job.state == "running"]
    assert (job.node, job.step, job.total_steps, job.score) == (node, 10, 40, "validation loss 0.5, accuracy 0.75")
    assert read_status("toy", two_stages(), store).running is False


def test_status_ignores_a_driver_that_was_killed_long_ago(store):
    node = begin(store, two_stages())
    store.write_json(store.sidecar("toy", DRIVER), {"time": time.time() - 3600, "running": [node]})
    assert states(read_status("toy", two_stages(), store))[node] == "pending"


def test_journal_logs_every_change_between_begin_and_end(store):
    graph = two_stages()
    with Journal(store, "toy", graph) as journal:
        journal.listen(graph.nodes()[0], "running")
        journal.listen(graph.nodes()[0], "succeeded")
    logged = events(store.sidecar("toy", EVENTS))
    assert [event.get("state", event["event"]) for event in logged] == ["begin", "running", "succeeded", "end"]
    assert not store.sidecar("toy", DRIVER).exists()
