"""What a run finds done, and what it refuses to trust."""

import pytest

from orchestrator.definition.graph import Graph
from orchestrator.storage.prepare import prepare
from orchestrator.storage.store import Store
from tests.orchestrator.doubles import run_jobs, source, transfer, two_stages


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
