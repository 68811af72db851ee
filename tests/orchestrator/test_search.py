"""The searcher by hand, as Tune calls it: no Ray is running."""

import copy
import pickle

import pytest
from ray.tune.search import Searcher

from orchestrator.cost import CostModel
from orchestrator.graph import Graph
from orchestrator.packing import Policy
from orchestrator.profile import load_profile
from orchestrator.search import GraphSearcher
from orchestrator.store import Store
from tests.orchestrator.doubles import source, transfer


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def searcher_of(graph, store, pack_size=1, **options):
    policy = Policy(graph, CostModel(load_profile("h100_estimate"), pack=pack_size))
    return GraphSearcher(graph, store, lambda pack: {"pack": pack}, policy=policy, **options)


def finish(store, node):
    directory = store.begin(node, {})
    (directory / "result.json").write_text("{}")
    store.commit(node)


def chain():
    top = source("s0")
    return top, transfer("t0", [top])


def test_suggest_waits_for_parents_and_finishes(store):
    top, below = chain()
    searcher = searcher_of(Graph([below]), store)
    assert searcher.suggest("one") == {"pack": (top.node,)}
    assert searcher.suggest("two") is None
    finish(store, top.node)
    searcher.on_trial_complete(trial_id="one", result={"done": True})
    assert searcher.suggest("two") == {"pack": (below.node,)}
    assert searcher.suggest("three") == Searcher.FINISHED
    finish(store, below.node)
    searcher.on_trial_complete(trial_id="two", result={})
    assert searcher.suggest("four") == Searcher.FINISHED
    assert searcher.handed_out == 0


def test_failed_parent_blocks_its_descendants_and_the_rest_goes_on(store):
    top, below = chain()
    lone = source("s9")
    graph = Graph([below, lone])
    searcher = searcher_of(graph, store)
    searcher.suggest("one")
    searcher.on_trial_complete(trial_id="one", error=True)
    assert graph.states[below.node] == "blocked"
    assert searcher.suggest("two") == {"pack": (lone.node,)}
    assert searcher.suggest("three") == Searcher.FINISHED
    assert graph.blocked_by(below.node) == top.node


def test_trial_that_ends_well_without_a_commit_is_a_failure(store):
    top, below = chain()
    graph = Graph([below])
    searcher = searcher_of(graph, store)
    searcher.suggest("one")
    store.begin(top.node, {})
    store.fail(top.node, "loss became nan", "...")
    searcher.on_trial_complete(trial_id="one", result={"done": True})
    assert dict(graph.states) == {top.node: "failed", below.node: "blocked"}


def test_worker_that_dies_after_its_commit_has_succeeded(store):
    top, below = chain()
    graph = Graph([below])
    searcher = searcher_of(graph, store)
    searcher.suggest("one")
    finish(store, top.node)
    searcher.on_trial_complete(trial_id="one", error=True)
    assert graph.states[top.node] == "succeeded"
    assert searcher.suggest("two") == {"pack": (below.node,)}


def test_stopped_pack_is_pending_again_and_nothing_more_is_handed_out(store):
    top, below = chain()
    graph = Graph([below])
    searcher = searcher_of(graph, store)
    searcher.suggest("one")
    searcher.stop()
    assert searcher.suggest("two") == Searcher.FINISHED
    searcher.on_trial_complete(trial_id="one", result={"stopped": True})
    assert graph.states[top.node] == "pending"


def test_cached_jobs_are_never_handed_out(store):
    top, below = chain()
    graph = Graph([below])
    graph.mark(top.node, "cached")
    assert searcher_of(graph, store).suggest("one") == {"pack": (below.node,)}


def test_members_of_a_pack_end_one_by_one(store):
    top = source("s0")
    members = [transfer("t0", [top], seed) for seed in range(3)]
    graph = Graph(members)
    graph.mark(top.node, "cached")
    searcher = searcher_of(graph, store, pack_size=3)
    assert searcher.suggest("one") == {"pack": tuple(member.node for member in members)}
    finish(store, members[0].node)
    finish(store, members[2].node)
    searcher.on_trial_complete(trial_id="one", result={})
    assert [graph.states[member.node] for member in members] == ["succeeded", "failed", "succeeded"]


def test_listeners_hear_every_change(store):
    heard = []
    searcher = searcher_of(Graph([source("s0")]), store, listeners=[lambda node, state: heard.append(state)])
    searcher.suggest("one")
    searcher.on_trial_complete(trial_id="one", error=True)
    assert heard == ["running", "failed"]


def test_copies_for_snapshots_hold_nothing_and_deep_copies_are_the_same_object(store):
    searcher = searcher_of(Graph([source("s0")]), store)
    assert copy.deepcopy(searcher) is searcher
    assert pickle.loads(pickle.dumps(searcher)).__dict__ == {}
