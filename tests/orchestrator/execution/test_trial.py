"""How packs end in a worker, without Ray: whom an error concerns, and what the driver hears of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.execution.trial import Ending, MemberOrder, PackOrder, run_pack
from orchestrator.storage.retrying import StoreUnavailable
from scalearn.training.pack import Outcome, PackMember, Report
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import TRAIN, behave, source

JOBS = [source("s0"), source("s1")]
NODES = tuple(job.node for job in JOBS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def order(store: Store, *, size: int = 2, train: str = TRAIN) -> PackOrder:
    members = tuple(MemberOrder(job.node, job.config, {"node": job.node}, {}) for job in JOBS[:size])
    return PackOrder(members, store.url, train, Runtime(), store.root / "stop")


def begun_anew(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Trains while another worker begins the first job, and meets an error."""
    Store(pack[0].directory.parents[5]).begin(NODES[0], {"node": NODES[0]})
    raise OSError("files vanished")


def test_worker_whose_job_was_begun_anew_marks_no_failure_whatever_it_meets(store):
    assert run_pack(order(store, size=1, train=f"{__name__}:begun_anew")) == Ending("stopped", NODES[:1])
    assert store.state(NODES[0]) == "pending"


def test_error_of_a_pack_fails_nobody_until_the_job_is_alone(store):
    behave(store, ("s0", {"crash": "bad row"}))
    assert run_pack(order(store)) == Ending("part", NODES)
    assert [store.state(node) for node in NODES] == ["pending", "pending"]
    assert run_pack(order(store, size=1)) == Ending()
    assert store.read_json(NODES[0], "FAILED.json")["error"] == "RuntimeError: bad row"


def test_memory_that_does_not_hold_a_pack_fails_only_a_job_that_is_alone(store):
    behave(store, ("s0", {"fits": 0}))
    assert run_pack(order(store)) == Ending("halve", NODES)
    assert run_pack(order(store, size=1)) == Ending()
    assert store.read_json(NODES[0], "FAILED.json")["error"] == "Memory does not hold these jobs together."


def test_pack_on_a_node_that_leaves_stops_before_its_jobs_begin_or_when_they_have_written_a_checkpoint(store):
    assert run_pack(order(store), lambda: True) == Ending("stopped", NODES)
    assert not store.directory(NODES[0]).exists()
    looks = iter([False, False, False, True])  # before the pack, and twice in each epoch
    behave(store, (".", {"epochs": 10, "looks": True, "saves": 100, "quiet": True}))
    assert run_pack(order(store, size=1), lambda: next(looks)) == Ending("stopped", NODES[:1])
    assert (store.directory(NODES[0]) / "checkpoint" / "epoch").read_text() == "1"


def test_worker_that_cannot_reach_the_store_tells_the_driver_why_its_jobs_ended(store, monkeypatch):
    def away(*arguments: object) -> None:
        raise StoreUnavailable("The store could not be reached.")

    monkeypatch.setattr(Store, "begin", away)
    monkeypatch.setattr(Store, "fail", away)
    assert run_pack(order(store)) == Ending("away", NODES, "The store could not be reached.")
