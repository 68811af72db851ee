"""How far a sweep is, from files alone; and what the driver leaves for that."""

import io
import json
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.commands import status as status_command
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers import events as journal_module
from orchestrator.drivers.events import EVENTS, Journal
from orchestrator.drivers.heartbeat import drivers
from orchestrator.storage.files import Storage
from orchestrator.watching.status import print_status, read_status, show_counts
from tests.orchestrator.helpers.doubles import behave, run_jobs, two_stages
from tests.orchestrator.helpers.drivers import give_sign
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import wait_until
from tests.orchestrator.helpers.read_events import all_events, events


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


def test_status_names_the_worker_of_each_running_job_and_never_an_unknown_number(store):
    driven = two_stages()
    node = begin(store, driven)
    (store.directory(node) / "job.json").write_text(json.dumps({"provenance": {"host": "node3", "pid": 7, "gpus": "1"}}))
    with Journal(store, "toy", driven):
        status = read_status("toy", two_stages(), store)
    assert f"running  {node}: step 10/40, epoch 1, validation loss 0.5, accuracy 0.75 on node3, GPU 1 (" in printed(status)
    assert printed(status).splitlines()[-1] == "Time left not known yet."
    (job,) = [job for job in status.to_json()["nodes"] if job["state"] == "running"]
    assert job["worker"] == "node3, GPU 1"


def test_status_of_a_live_driver_shows_running_jobs_with_step_and_score(store):
    driven = two_stages()
    node = begin(store, driven)
    with Journal(store, "toy", driven):
        status = read_status("toy", two_stages(), store)
    assert status.running
    (job,) = [job for job in status.jobs if job.state == "running"]
    assert (job.node, job.step, job.total_steps, job.score) == (node, 10, 40, "validation loss 0.5, accuracy 0.75")
    assert (job.epoch, job.driver) == (1.0, f"{socket.gethostname()}, process {os.getpid()}")
    assert f"running  {node}: step 10/40, epoch 1, validation loss 0.5, accuracy 0.75 ({job.driver})" in printed(status)
    assert show_counts(status) == "toy: 0/7 done, 1 running, 6 waiting, 0 failed, 0 blocked, time left not known yet"
    assert read_status("toy", two_stages(), store).running is False


def printed(status):
    console = Console(width=200, record=True, file=io.StringIO())
    print_status(status, console)
    return console.export_text()


def test_status_counts_and_estimates_by_stage_and_method(store):
    graph = two_stages()
    behave(store, ("t[23]/", {"error": "no"}))
    run_jobs(graph, store)
    for node in [node for node in graph.nodes() if store.state(node) == "failed"]:
        (store.directory(node) / "FAILED.json").unlink()  # as if they had not been tried
    driven = two_stages()
    todo = [node for node in driven.nodes() if not store.complete(node)]
    for job in driven:
        driven.mark(job.node, "running" if job.node == todo[0] else "cached" if store.complete(job.node) else "pending")
    with Journal(store, "toy", driven):
        status = read_status("toy", two_stages(), store)
    assert status.groups() == {
        ("source", "adapter"): {"succeeded": 3},
        ("transfer", "scalearn"): {"succeeded": 2, "running": 1, "pending": 1},
    }
    # A finished job of the double says that it took 0.3 s in all; the running one says that 0.2 s of it are gone.
    assert status.left("source") == 0.0
    assert status.left("transfer", "scalearn") == status.left() == pytest.approx(0.4)
    groups = status.to_json()["groups"]
    assert groups[1] == {
        "stage": "transfer",
        "method": "scalearn",
        "jobs": {"succeeded": 2, "running": 1, "pending": 1},
        "seconds_left": groups[1]["seconds_left"],
    }


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_watch_without_a_terminal_writes_lines_until_the_sweep_is_over(store, tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP)
    graph = Sweep.load("toy.yaml").expand()
    reader = threading.Thread(target=main, args=[["status", "toy.yaml", "--watch", "0.05", *flags]])
    with Journal(store, "toy", graph):
        reader.start()
        run_jobs(graph, store)
    reader.join(60)
    assert not reader.is_alive()
    lines = capsys.readouterr().out.splitlines()
    if flags:
        assert json.loads(lines[-1])["jobs"]["by_state"] == {"succeeded": 10}
    else:
        assert lines[-1].endswith("toy: 10/10 done, 0 running, 0 waiting, 0 failed, 0 blocked")
        assert len(lines) == len(set(lines))


def test_watch_on_a_terminal_draws_the_table(store):
    run_jobs(two_stages(), store)
    console = Console(force_terminal=True, width=120, file=io.StringIO())
    status_command._draw("toy", two_stages, store, 0.05, console)
    assert "scalearn" in console.file.getvalue()
    assert "4/4" in console.file.getvalue()


def test_status_ignores_a_driver_that_was_killed_and_signs_of_earlier_versions(store, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "1")
    node = begin(store, two_stages())
    give_sign(store, "gone-1-x", sweep="toy", running=[node])
    store.write_json(store.sidecar("toy", "drivers/earlier-1-x.json"), {"time": time.time(), "host": "h", "pid": 1, "running": [node]})
    assert states(read_status("toy", two_stages(), store))[node] == "pending"


def test_status_joins_what_two_drivers_run(store):
    first, second = two_stages(), two_stages()
    nodes = [graph.nodes()[index] for index, graph in enumerate((first, second))]
    first.mark(nodes[0], "running")
    second.mark(nodes[1], "running")
    with Journal(store, "toy", first), Journal(store, "toy", second):
        found = drivers(store, "toy")
        assert sorted(node for driver in found for node in driver.running) == sorted(nodes)
        assert {driver.pid for driver in found} == {os.getpid()}
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


@pytest.mark.fault
def test_journal_goes_on_a_line_of_its_own_after_half_a_line(store):
    """A disk that filled up took half a line, of this driver or of another."""
    log = store.sidecar("toy", EVENTS)
    with Journal(store, "toy", two_stages()) as journal:
        with log.open("a") as file:
            file.write('{"time": 1.0, "event": "sta')
        journal.note("state", node="x", state="running")
    assert [event["event"] for event in events(log)] == ["begin", "state", "end"]


@pytest.mark.fault
def test_lines_of_which_a_full_disk_took_some_arrive_once(store):
    log = store.sidecar("toy", EVENTS)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(store, "toy", two_stages()) as journal:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
            journal.note("state", node="a")  # which does not fit
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 80, limits[1]))
            journal.note("state", node="b")  # now the first one does, and half of this
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert not log.read_bytes().endswith(b"\n")
    assert [event.get("node", event["event"]) for event in events(log)] == ["begin", "a", "b", "end"]


def test_journal_behind_a_url_takes_notes_during_an_upload_and_begins_new_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "0.5")
    monkeypatch.setattr(journal_module, "_LARGEST_PART", 400)
    store, uploading, noted = Store(f"memory://{tmp_path.name}/runs"), threading.Event(), threading.Event()
    write = Storage.write

    def slow(storage, path, data):
        if "/events/" in str(path):
            uploading.set()
            assert noted.wait(60), "a note waited for the upload"
        write(storage, path, data)

    monkeypatch.setattr(Storage, "write", slow)
    with Journal(store, "toy", two_stages()) as journal:
        assert uploading.wait(60)
        for number in range(9):
            journal.note("state", node=str(number))
        noted.set()
        wait_until(lambda: len(all_events(store, "toy")) == 10)  # which fills the first part
    assert [event.get("node", event["event"]) for event in all_events(store, "toy")] == ["begin", *map(str, range(9)), "end"]
    assert len(store.storage.names(store.sidecar("toy", "events"))) > 1


def test_store_behind_a_url_has_status_events_logs_and_cancelling_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "0.5")
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP)
    where = ["toy.yaml", "--store", f"memory://{tmp_path.name}/runs"]
    store, graph = Store(where[-1]), Sweep.load("toy.yaml").expand()
    node, asked = graph.nodes()[0], threading.Event()
    with Journal(store, "toy", graph, on_cancel=lambda: not asked.set()):
        graph.mark(node, "running")
        directory = store.begin(node, {"node": node})
        record = {"step": 10, "total_steps": 40, "time": 1.0, "seconds": 5.0, "epoch": 1.0, "validation": {"accuracy": 0.75}}
        (directory / "history.jsonl").write_text(json.dumps(record) + "\n")
        (directory / "log.txt").write_text("step 10\n")
        store.publish(node)
        wait_until(lambda: any(node in driver.running for driver in drivers(store, "toy")))
        (job,) = [job for job in read_status("toy", Sweep.load("toy.yaml").expand(), store).jobs if job.state == "running"]
        assert (job.node, job.step, job.score) == (node, 10, "validation accuracy 0.75")
        assert main(["logs", where[0], node, *where[1:]]) == 0
        assert capsys.readouterr().out == "step 10\n"
        assert main(["cancel", *where, "--wait", "0.1"]) == 1
        assert asked.wait(60)
    assert [event["event"] for event in all_events(store, "toy")] == ["begin", "cancel", "end"]
    assert drivers(store, "toy") == []
