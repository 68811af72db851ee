"""Who trains a job when several drivers could: claims by hand, and whole drivers that share a store."""

import errno
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store, Verdict
from orchestrator.cli import main
from orchestrator.drivers.claims import CLAIMS, Claims
from orchestrator.drivers.heartbeat import Heartbeat, drivers
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import Patience, StoreUnavailable
from scalearn.errors import UserError
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import TRAIN, behave, source
from tests.orchestrator.helpers.drivers import claim_as, claiming, give_sign, read_sign
from tests.orchestrator.helpers.launching import Launch, wait_until
from tests.orchestrator.helpers.object_server import BUCKET
from tests.orchestrator.helpers.read_events import all_events

NODE = source("s0").node


@dataclass(frozen=True)
class Ended:
    """What a driver said, and its exit code."""

    out: str
    err: str
    code: int


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_of_two_drivers_one_gets_a_job_until_it_reclaims_it(store):
    with claiming(store) as first, claiming(store) as second:
        assert first.claim(NODE)
        assert first.claim(NODE)
        assert not second.claim(NODE)
        assert not second.is_free(NODE)
        first.release(NODE, done=False)
        assert second.is_free(NODE)
        assert second.claim(NODE)
        assert not first.claim(NODE)


def test_driver_that_leaves_gives_up_its_claims(store):
    with claiming(store) as second:
        with claiming(store) as first:
            assert first.claim(NODE)
        assert second.claim(NODE)


def test_claims_on_a_finished_job_leave_no_trace(store):
    with claiming(store) as claims:
        claims.claim(NODE)
        claims.release(NODE, done=True)
        assert not list((store.root / CLAIMS).rglob("1.json"))
    assert not [path for path in (store.root / CLAIMS).parent.rglob("*") if path.is_file()]


def test_silent_driver_of_another_machine_loses_its_claims_by_the_readers_clock_alone(store):
    clock = Clock()
    give_sign(store, "silent", count=1)
    claim_as(store, "silent", NODE)
    with claiming(store, 60, clock=clock) as reader:
        clock.now = 1000.0
        assert not reader.claim(NODE)  # however old the sign may be: this is the first look at it
        clock.now += 59
        assert not reader.claim(NODE)
        give_sign(store, "silent", count=2)
        assert not reader.claim(NODE)
        clock.now += 59
        assert not reader.claim(NODE)
        clock.now += 2
        assert reader.claim(NODE)


def test_of_many_drivers_that_find_a_dead_one_a_single_one_takes_over(store):
    clock = Clock()
    give_sign(store, "silent")
    claim_as(store, "silent", NODE)
    with ExitStack() as living:
        readers = [living.enter_context(claiming(store, 60, clock=clock)) for _ in range(8)]
        assert not any(reader.claim(NODE) for reader in readers)
        clock.now = 61.0
        assert sum(reader.claim(NODE) for reader in readers) == 1


def test_process_of_this_machine_that_has_ended_holds_nothing(store):
    with claiming(store, 3600) as reader:
        own = read_sign(store, reader.driver)
        give_sign(store, "gone", **{**own, "started": own["started"] - 10})  # the number is another process's by now
        claim_as(store, "gone", NODE)
        assert reader.is_free(NODE)
        assert reader.claim(NODE)


def test_driver_of_an_earlier_version_keeps_its_claims_while_it_gives_signs(store):
    """Its start is told in other units, which must not make its process, or ours to its eyes, one that has ended."""
    clock = Clock()
    with claiming(store, 60, clock=clock) as reader:
        own = read_sign(store, reader.driver)
        earlier = {"machine": own["machine"].replace(":", " ", 1), "pid": own["pid"], "started": "1234567"}
        assert earlier["machine"] != own["machine"]
        give_sign(store, "earlier", count=1, **earlier)
        claim_as(store, "earlier", NODE)
        for count in (2, 3):
            assert not reader.claim(NODE)
            clock.now += 50
            give_sign(store, "earlier", count=count, **earlier)
        assert not reader.claim(NODE)
        clock.now += 61
        assert reader.claim(NODE)


def test_store_that_does_not_answer_grants_nothing_and_breaks_nothing(store, monkeypatch):
    with claiming(store) as claims:

        def refuse(*arguments):
            raise StoreUnavailable("away")

        monkeypatch.setattr(Storage, "names", refuse)
        assert not claims.claim(NODE)
        assert not claims.is_free(NODE)


@pytest.mark.fault
def test_claim_whose_answer_was_lost_is_this_drivers_all_the_same(object_server, monkeypatch):
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    store = Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    with claiming(store) as claims, claiming(store) as other:
        object_server.lose_answer(f"{CLAIMS}/")
        told = claims.claim(NODE)
        assert store.storage.read_json(store.root / CLAIMS / NODE / "1.json") == {"driver": claims.driver}
        assert told or claims.is_free(NODE)
        assert claims.claim(NODE)
        assert not claims.is_free(NODE)
        assert not other.claim(NODE)
        assert not other.is_free(NODE)


def test_file_that_a_repeated_request_finds_linked_was_created_by_this_call(tmp_path, monkeypatch):
    link = os.link

    def link_twice(beside: Path, path: Path) -> None:
        link(beside, path)
        link(beside, path)

    storage = Storage(tmp_path)
    monkeypatch.setattr(os, "link", link_twice)
    assert storage.create(tmp_path / "x.json", b"mine")
    assert not storage.create(tmp_path / "x.json", b"yours")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_worker_whose_job_was_begun_anew_leaves_without_commit_or_failure(store):
    job = source("s0")
    behave(store, (".", {"seconds": 0.02, "epochs": 10_000}))
    order = PackOrder((MemberOrder(job.node, job.config, {"node": job.node}, {}),), store.url, TRAIN, Runtime(), store.root / "stop")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(run_pack, order)  # its driver is taken for dead
        wait_until((store.directory(job.node) / "checkpoint" / "epoch").exists)
        store.begin(job.node, {"node": job.node})
        assert slow.result(60).how == "stopped"
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


@pytest.fixture(params=["directory", "s3"])
def shared_store(request, tmp_path, monkeypatch):
    """A store that several drivers use: its URL, None for a directory; and where the double reads how to behave."""
    if request.param == "directory":
        yield None, tmp_path / "runs"
        return
    environment = request.getfixturevalue("object_server").environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # The workers of a cluster have the environment of its start; what they find in their home is up to date.
    settings = Path.home() / ".aws" / "config"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[default]\n" + "".join(f"{name.removeprefix('AWS_').lower()} = {value}\n" for name, value in environment.items()))
    settings.write_text(settings.read_text().replace("default_region", "region"))
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    yield url, Store(url).scratch / "work"
    settings.unlink()


@pytest.mark.slow
@pytest.mark.fault
def test_two_drivers_that_share_jobs_train_each_once_and_both_finish(shared_store, shared_ray, tmp_path, repository):
    url, place = shared_store
    first, second = Launch(tmp_path, repository, url=url), Launch(tmp_path, repository, SECOND, "second", url)
    behave(Store(place), ("source", {"hold": {"epoch": 1, "until": "go"}}), ("transfer", {"seconds": 0.4}))
    environment = {"RAY_ADDRESS": shared_ray} | ({"MLFLOW_TRACKING_URI": first.tracking} if url else {})
    only = "source/adapter" if url else "."  # the test's server takes its time
    processes = [launch.start("--only", only, **environment) for launch in (first, second)]
    wait_until(lambda: drivers(first.store, "toy") and drivers(first.store, "second"))
    (place / "go").touch()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    nodes = {launch.name: set(launch.graph().restrict(only).nodes()) for launch in (first, second)}
    shared = nodes["toy"] & nodes["second"]
    assert len(shared) == (4 if url else 6)
    assert set(first.attempts().values()) == set(second.attempts().values()) == {1}
    for launch in (first, second):
        assert {launch.store.verify(node).state for node in nodes[launch.name]} == {"complete"}
        assert set(launch.tracked().values()) == {"FINISHED"}
    changes = [event for launch in (first, second) for event in all_events(launch.store, launch.name) if event["event"] == "state"]
    states = {state: {event["node"] for event in changes if event["state"] == state} for state in ("succeeded", "cached")}
    assert states["cached"]  # or one driver was done before the other began, and this test shows nothing
    assert states["cached"] <= states["succeeded"] & shared


BBC, APPLE, AIRLINES = (f"source/adapter/{task}" for task in ("bbc", "apple", "airlines"))


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory, repository, shared_ray):
    """Jobs of a driver that is killed, and of one that is stopped together with one of its two workers, taken over by a third.

    The stopped processes go on when the third driver is done.
    """
    directory = tmp_path_factory.mktemp("taken_over")
    first, second = Launch(directory, repository), Launch(directory, repository, SECOND, "second")
    slow = f"{BBC}|{APPLE}|{AIRLINES}"
    nodes = {part: first.node(part) for part in (BBC, APPLE, AIRLINES)}
    behave(first.store, (slow, {"seconds": 0.2, "epochs": 10_000, "looks": True}))
    environment = {"RAY_ADDRESS": shared_ray, "SCALEARN_LEASE_SECONDS": "8"}
    killed = first.start("--only", BBC, **environment)
    stopped = first.start("--only", f"{APPLE}|{AIRLINES}", **environment)
    wait_until(lambda: all(first.epoch(node) >= 2 for node in nodes.values()))
    third = second.start("--only", "source/adapter", **environment)
    wait_until(lambda: second.store.complete(second.node("source/adapter/self_driving")))
    before = first.attempts()
    worker = first.log(nodes[APPLE])[0]["pid"]
    asleep = [stopped.pid, worker]
    try:
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        reached = {node: first.epoch(node) for node in nodes.values()}
        # Before the kill: the third driver may begin a job at once.
        behave(first.store, (slow, {"epochs": max(reached.values()) + 20, "seconds": 0.05, "looks": True}))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        ended = [Ended(*third.communicate(timeout=300), third.returncode)]
        artifacts = {node: first.store.read_json(node, "SUCCESS.json") for node in nodes.values()}
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
    ended.append(Ended(*stopped.communicate(timeout=300), stopped.returncode))
    return first, nodes, before, reached, ended, artifacts


@pytest.mark.slow
@pytest.mark.fault
def test_jobs_of_a_killed_driver_are_taken_over_by_one_that_waits_for_them(taken_over):
    first, nodes, before, reached, ended, _ = taken_over
    node = nodes[BBC]
    assert ended[0].code == 0, ended[0]
    assert before[node] == 1
    begun = [entry["from"] for entry in first.log(node)]
    assert begun[0] == 0
    assert begun[1] >= reached[node]
    assert len(begun) == 2


@pytest.mark.slow
@pytest.mark.fault
def test_driver_that_was_stopped_finds_its_jobs_done_by_another_and_its_workers_leave_them_alone(taken_over):
    first, nodes, before, reached, ended, artifacts = taken_over
    assert [driver.code for driver in ended] == [0, 0], ended
    for node in (nodes[APPLE], nodes[AIRLINES]):
        begun = [entry["from"] for entry in first.log(node)]
        assert len(begun) == 2
        assert begun[1] >= reached[node]
        assert (before[node], first.attempts()[node]) == (1, 2)
        assert first.store.read_json(node, "SUCCESS.json") == artifacts[node]
        assert first.store.verify(node) == Verdict("complete")
        assert not (first.store.directory(node) / "FAILED.json").exists()
    tracked = first.tracked()  # one run each, or it fails
    assert (tracked[nodes[APPLE]], tracked[nodes[AIRLINES]]) == ("FINISHED", "FINISHED")


def test_force_leaves_a_job_alone_that_another_driver_trains(tmp_path, repository, capsys):
    launch = Launch(tmp_path, repository)
    node = launch.node("source/adapter/bbc")
    command = ["run", str(launch.file), "--store", str(launch.store.root), "--force", "--only", "source/adapter/bbc"]
    with claiming(launch.store, 0.6) as other:
        assert other.claim(node)
        assert main(command) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"scalearn: {node} is being trained by another run, {other.driver}: wait for its end")
    assert said.out.startswith(f"{node} is claimed by {other.driver}: waiting up to 60 seconds for a sign of life from there.")


def test_seconds_of_a_lease_come_from_the_environment(store, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "7.5")
    assert Heartbeat(store).lease == 7.5
    for wrong in ("0", "-1", "nan", "inf", "a minute"):
        monkeypatch.setenv("SCALEARN_LEASE_SECONDS", wrong)
        with pytest.raises(UserError, match=f"^SCALEARN_LEASE_SECONDS is '{wrong}': give a number of seconds above 0, such as 60.$"):
            Heartbeat(store)


def test_store_that_takes_no_claim_for_longer_than_one_waits_ends_the_sweep(tmp_path, monkeypatch):
    clock = Clock()
    claims = Claims(Heartbeat(Store(tmp_path / "runs", Patience(120.0))), clock)  # none of its signs arrives either

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Storage, "create", refuse)
    for clock.now in (0.0, 60.0, 120.0):
        assert not claims.claim(NODE)
    clock.now = 121.0
    with pytest.raises(StoreUnavailable, match="could not be written to for 121 seconds"):
        claims.claim(NODE)


def test_store_that_was_away_twice_and_answered_in_between_ends_nothing(tmp_path, monkeypatch):
    store, clock = Store(tmp_path / "runs", Patience(120.0)), Clock()
    with claiming(store, 0.3, clock=clock) as claims:

        def refuse(*arguments):
            raise OSError(errno.EIO, "input/output error")

        with monkeypatch.context() as away:
            away.setattr(Storage, "create", refuse)
            assert not claims.claim(NODE)
            count = read_sign(store, claims.driver)["count"]
            wait_until(lambda: read_sign(store, claims.driver)["count"] > count + 1)  # it answers, and nobody claims
            clock.now = 1000.0
            assert not claims.claim(NODE)
        assert claims.claim(NODE)
