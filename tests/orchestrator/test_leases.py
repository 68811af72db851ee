"""Who trains a job when several drivers could: claims by hand, and whole drivers that share a store."""

import errno
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from orchestrator.storage.files import Storage
from orchestrator.storage.leases import LEASES, Leases
from orchestrator.storage.patience import Patience, StoreUnavailable
from orchestrator.storage.store import Store
from scalearn.runtime import Runtime
from tests.orchestrator.doubles import TRAIN, behave, source
from tests.orchestrator.launching import Launch, wait_until

NODE = source("s0").node


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def sign_of(store: Store, leases: Leases) -> Path:
    return store.root / LEASES / "drivers" / f"{leases.driver}.json"


def move_to_another_machine(store: Store, leases: Leases) -> None:
    """Make a driver's sign of life that of a machine whose processes nobody here can see."""
    sign = json.loads(sign_of(store, leases).read_text())
    sign_of(store, leases).write_text(json.dumps({**sign, "machine": "another"}))


def beat(store: Store, leases: Leases) -> None:
    sign = json.loads(sign_of(store, leases).read_text())
    sign_of(store, leases).write_text(json.dumps({**sign, "count": sign["count"] + 1}))


def test_of_two_drivers_one_gets_a_job_until_it_releases_it(store):
    with Leases(store) as first, Leases(store) as second:
        assert first.claim(NODE)
        assert first.claim(NODE)
        assert not second.claim(NODE)
        assert not second.is_free(NODE)
        first.release(NODE, done=False)
        assert second.is_free(NODE)
        assert second.claim(NODE)
        assert not first.claim(NODE)


def test_driver_that_leaves_gives_up_its_claims(store):
    with Leases(store) as second:
        with Leases(store) as first:
            assert first.claim(NODE)
        assert second.claim(NODE)


def test_claims_on_a_finished_job_leave_no_trace(store):
    with Leases(store) as leases:
        leases.claim(NODE)
        leases.release(NODE, done=True)
        assert not list((store.root / LEASES).rglob("1.json"))
    assert not [path for path in (store.root / LEASES).rglob("*") if path.is_file()]


def test_silent_driver_of_another_machine_loses_its_claims_by_the_readers_clock_alone(store):
    clock = Clock()
    with Leases(store, 3600) as silent, Leases(store, 60, clock) as reader:
        silent.claim(NODE)
        move_to_another_machine(store, silent)
        clock.now = 1000.0
        assert not reader.claim(NODE)  # however old the sign may be: this is the first look at it
        clock.now += 59
        assert not reader.claim(NODE)
        beat(store, silent)
        assert not reader.claim(NODE)
        clock.now += 59
        assert not reader.claim(NODE)
        clock.now += 2
        assert reader.claim(NODE)
        assert not silent.claim(NODE)  # should it wake up


def test_of_many_drivers_that_find_a_dead_one_a_single_one_takes_over(store):
    clock = Clock()
    with Leases(store, 3600) as silent:
        silent.claim(NODE)
        move_to_another_machine(store, silent)
        readers = [Leases(store, 60, clock) for _ in range(8)]
        assert not any(reader.claim(NODE) for reader in readers)
        clock.now = 61.0
        for reader in readers:
            reader.__enter__()
        assert sum(reader.claim(NODE) for reader in readers) == 1
        for reader in readers:
            reader.__exit__()


def test_process_of_this_machine_that_has_ended_holds_nothing(store):
    with Leases(store, 3600) as gone, Leases(store, 3600) as reader:
        gone.claim(NODE)
        sign = json.loads(sign_of(store, gone).read_text())
        sign_of(store, gone).write_text(json.dumps({**sign, "started": "1"}))  # the number is another process's by now
        assert reader.is_free(NODE)
        assert reader.claim(NODE)


def test_heartbeat_counts_up(store):
    with Leases(store, 0.2) as leases:
        counts = {json.loads(sign_of(store, leases).read_text())["count"]}
        wait_until(lambda: counts.add(json.loads(sign_of(store, leases).read_text())["count"]) or len(counts) > 2)


def test_store_that_does_not_answer_grants_nothing_and_breaks_nothing(store, monkeypatch):
    with Leases(store) as leases:

        def refuse(*arguments):
            raise StoreUnavailable("away")

        monkeypatch.setattr(Storage, "names", refuse)
        assert not leases.claim(NODE)
        assert not leases.is_free(NODE)


def test_worker_whose_job_was_begun_anew_leaves_without_commit_or_failure(store):
    job = source("s0")
    behave(store, (".", {"seconds": 0.02, "epochs": 10_000}))
    order = PackOrder((MemberOrder(job.node, job.config, {"node": job.node}, {}),), store.url, TRAIN, Runtime(), store.root / "stop")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(run_pack, order)  # its driver is taken for dead
        wait_until((store.directory(job.node) / "checkpoint" / "epoch").exists)
        store.begin(job.node, {"node": job.node})
        assert slow.result(60) is True
    assert store.state(job.node) == "pending"


SECOND = """
name: second
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, self_driving, apple, bbc]}
targets: [apple]
methods:
  scalearn: {seeds: [0, 1]}
  scalearn_uniform: {}
"""
"""Shares the four sources and two targets with the other sweep, and has one of its own."""


@pytest.mark.slow
@pytest.mark.fault
def test_two_drivers_that_share_jobs_train_each_once_and_both_finish(tmp_path, repository, shared_ray):
    first, second = Launch(tmp_path, repository), Launch(tmp_path, repository, SECOND, "second")
    behave(first.store, (".", {"seconds": 0.4}))
    processes = [first.start(RAY_ADDRESS=shared_ray), second.start(RAY_ADDRESS=shared_ray)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    shared = set(first.graph().nodes()) & set(second.graph().nodes())
    assert len(shared) == 6
    assert set(first.attempts().values()) == set(second.attempts().values()) == {1}
    trainers = {first.store.read_json(node, "job.json")["provenance"]["sweep_file"] for node in shared}
    assert len(trainers) == 2  # or one driver was done before the other began, and this test shows nothing
    assert set(first.tracked().values()) == {"FINISHED"}
    assert set(second.tracked().values()) == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.fault
def test_jobs_of_a_killed_driver_are_taken_over_by_one_that_waits_for_them(tmp_path, repository, shared_ray):
    first, second = Launch(tmp_path, repository), Launch(tmp_path, repository, SECOND, "second")
    slow = "source/adapter/bbc"
    behave(first.store, (slow, {"seconds": 0.2, "epochs": 10_000}))
    bbc = first.node(slow)
    killed = first.start("--only", slow, RAY_ADDRESS=shared_ray)
    wait_until(lambda: first.epoch(bbc) >= 2)
    waiting = second.start("--only", "airlines|bbc", RAY_ADDRESS=shared_ray)
    wait_until(lambda: "succeeded" in second.states().values())
    assert first.attempts()[bbc] == 1
    reached = first.epoch(bbc)
    behave(first.store, (slow, {"epochs": reached + 20}))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    out, err = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, out + err
    begun = [entry["from"] for entry in first.log(bbc)]
    assert begun[0] == 0
    assert begun[1] >= reached
    assert len(begun) == 2


def test_force_leaves_a_job_alone_that_another_driver_trains(tmp_path, repository, capsys):
    launch = Launch(tmp_path, repository)
    node = launch.node("source/adapter/bbc")
    command = ["run", str(launch.file), "--store", str(launch.store.root), "--force", "--only", "source/adapter/bbc"]
    with Leases(launch.store) as other:
        assert other.claim(node)
        assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"scalearn: {node} is being trained by another run: wait for its end")


def test_store_that_takes_no_claim_for_longer_than_one_waits_ends_the_sweep(tmp_path, monkeypatch):
    store, clock = Store(tmp_path / "runs", Patience(120.0)), Clock()
    with Leases(store, clock=clock) as leases:

        def refuse(*arguments):
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(Storage, "create", refuse)
        for clock.now in (0.0, 60.0, 120.0):
            assert not leases.claim(NODE)
        clock.now = 121.0
        with pytest.raises(StoreUnavailable, match="could not be written to for 121 seconds"):
            leases.claim(NODE)
