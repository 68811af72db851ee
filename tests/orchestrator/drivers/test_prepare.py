"""What a run finds done, and what it refuses to trust."""

import json
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import run_jobs, source, transfer, two_stages
from tests.orchestrator.helpers.drivers import claim_as, claiming, give_sign, prepare


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_prepare_marks_whole_artifacts_cached(store):
    run_jobs(two_stages(), store)
    graph = two_stages()
    assert prepare(graph, store) == []
    assert graph.counts()["cached"] == len(graph)


def test_prepare_sets_corrupt_parent_aside_and_keeps_its_finished_children(store):
    run_jobs(two_stages(sources=2, targets=1), store)
    graph = two_stages(sources=2, targets=1)
    parent, _, child = graph.nodes()
    (store.directory(parent) / "adapter" / "weights.safetensors").write_bytes(b"")
    (moved,) = prepare(graph, store)
    assert (moved.node, moved.reason) == (parent, "adapter/weights.safetensors has 0 bytes and not 4096")
    assert graph.states[parent] == "pending"
    assert graph.states[child] == "cached"
    assert graph.ready() == [parent]


def test_prepare_sets_aside_what_was_begun_on_a_corrupt_parent(store):
    top = source("s0")
    below = transfer("t0", [top, source("s1")])
    run_jobs(Graph([top, source("s1")]), store)
    (store.begin(below.node, {}) / "checkpoint").mkdir()
    (store.directory(top.node) / "result.json").write_text("{")
    graph = Graph([below])
    moved = {item.node: item.reason for item in prepare(graph, store)}
    assert moved[below.node] == f"begun on {top.node}, which is corrupt"
    assert not store.directory(below.node).exists()


def test_prepare_keeps_the_checkpoint_of_an_unfinished_job_and_retries_a_failed_one(store):
    one, two = (source(name) for name in ("s0", "s1"))
    (store.begin(one.node, {}) / "checkpoint").mkdir()
    store.begin(two.node, {})
    store.fail(two.node, "no", "no")
    graph = Graph([one, two])
    assert prepare(graph, store) == []
    assert graph.ready() == [one.node, two.node]
    assert (store.directory(one.node) / "checkpoint").is_dir()


def test_prepare_forced_node_is_set_aside_and_others_stay(store):
    run_jobs(two_stages(), store)
    graph = two_stages()
    node = graph.nodes()[-1]
    (moved,) = prepare(graph, store, forced=[node])
    assert moved.node == node
    assert graph.ready() == [node]


def unfinished_below(store: Store) -> tuple[Graph, str, str]:
    """A job under way on two finished ones, and the node of one of these."""
    top, other = source("s0"), source("s1")
    below = transfer("t0", [top, other])
    run_jobs(Graph([top, other]), store)
    (store.begin(below.node, {}) / "checkpoint").mkdir()
    return Graph([below]), top.node, below.node


def test_prepare_leaves_what_another_driver_trains_although_its_parent_seems_broken(store):
    graph, top, below = unfinished_below(store)
    (store.directory(top) / "result.json").write_text("{")
    with claiming(store, 0.6) as other:
        assert other.claim(below)
        assert [item.node for item in prepare(graph, store)] == [top]
    assert (store.directory(below) / "checkpoint").is_dir()


def test_prepare_looks_again_before_it_moves_anything(store, monkeypatch):
    graph, top, below = unfinished_below(store)
    (store.directory(top) / "SUCCESS.json").rename(store.root / "kept")
    verify_all = store.verify_all

    def commit_after_the_look(nodes, **options):
        verdicts = verify_all(nodes, **options)
        if (store.root / "kept").exists():
            (store.root / "kept").rename(store.directory(top) / "SUCCESS.json")
        return verdicts

    monkeypatch.setattr(store, "verify_all", commit_after_the_look)
    assert prepare(graph, store) == []
    assert (store.directory(below) / "checkpoint").is_dir()
    assert graph.states[top] in ("pending", "cached")


def test_prepare_waits_for_the_driver_that_moves_the_same_damage(store):
    run_jobs(two_stages(sources=2, targets=1), store)
    graph = two_stages(sources=2, targets=1)
    parent = graph.nodes()[0]
    (store.directory(parent) / "result.json").write_text("{")
    waits = threading.Event()
    with claiming(store, 0.6) as other, ThreadPoolExecutor() as pool:
        assert other.claim(parent)
        preparing = pool.submit(prepare, graph, store, tell=lambda line: waits.set())
        assert waits.wait(60)
        store.set_aside(parent, "found here first")
        other.release(parent, done=False)
        assert preparing.result(60) == []
    assert graph.states[parent] == "pending"


def silent(store: Store, node: str) -> None:
    """Leave a claim of a driver of another machine, which was never heard of again."""
    give_sign(store, "gone")
    claim_as(store, "gone", node)


def test_prepare_forced_waits_out_the_lease_of_a_silent_driver_and_says_so(store, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "0.3")
    run_jobs(two_stages(), store)
    graph = two_stages()
    node = graph.nodes()[-1]
    silent(store, node)
    said: list[str] = []
    (moved,) = prepare(graph, store, forced=[node], tell=said.append)
    assert moved.node == node
    assert said == [f"{node} is claimed by gone: waiting up to 0.3 seconds for a sign of life from there."]


def test_prepare_forced_refuses_while_the_other_driver_lives_and_moves_nothing(store):
    run_jobs(two_stages(), store)
    node = two_stages().nodes()[-1]
    with claiming(store, 0.6) as other:
        other.claim(node)
        with pytest.raises(UserError, match=f"^{node} is being trained by another run, {other.driver}: wait for its end"):
            prepare(two_stages(), store, forced=two_stages().nodes())
    assert store.state(node) == "succeeded"
    assert not (store.root / ".set_aside").exists()


def begun(store: Store, node: str) -> str:
    return str(json.loads((store.directory(node) / "job.json").read_text())["started"])


def test_prepare_names_what_an_earlier_run_saw_done(store):
    run_jobs(two_stages(), store)
    graph = two_stages()
    known = {node: begun(store, node) for node in graph.nodes()}
    unmarked, gone, moved, anew, *_ = graph.nodes()
    (store.directory(unmarked) / "SUCCESS.json").unlink()
    shutil.rmtree(store.directory(gone))
    store.set_aside(moved, "on purpose")
    store.set_aside(anew, "on purpose")
    store.begin(anew, {})
    found = {item.node: (item.reason, item.place is not None) for item in prepare(graph, store, known=known)}
    assert found[unmarked] == ("it was done, and its SUCCESS.json is gone", True)
    assert found[gone] == ("it was done, and its files are gone", False)
    assert not {moved, anew} & found.keys()
    assert graph.states[unmarked] == graph.states[gone] == "pending"


def test_prepare_names_what_the_index_of_an_url_took_for_done(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path))
    store, jobs = Store(f"memory://{uuid.uuid4().hex}/runs"), [source(f"s{number}") for number in range(3)]
    for job in jobs:
        (store.begin(job.node, {"node": job.node}) / "result.json").write_text("{}")
        store.commit(job.node)
    unmarked, gone, whole = (job.node for job in jobs)
    store.storage.remove(store.directory(unmarked) / "SUCCESS.json")
    store.storage.remove_tree(store.directory(gone))
    graph = Graph(jobs)
    found = {item.node: (item.reason, item.place is not None) for item in prepare(graph, store)}
    assert found == {
        unmarked: ("it was done, and its SUCCESS.json is gone", True),
        gone: ("it was done, and its files are gone", False),
    }
    assert graph.states[whole] == "cached"
    assert prepare(Graph(jobs), store) == []
