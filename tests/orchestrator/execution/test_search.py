"""The searcher by hand, as Tune calls it: no Ray is running."""

import copy
import pickle

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from ray.tune.search import Searcher

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.drivers.claims import Claims
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.execution.retries import Retries
from orchestrator.execution.search import GraphSearcher
from orchestrator.execution.trial import ENDING, Ending, NodeLeaves
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.turns import LOOKAHEAD, Turns
from tests.orchestrator.helpers.doubles import source, transfer
from tests.orchestrator.helpers.drivers import claiming


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def searcher_of(graph, store, pack_size=1, max_failures=3, nodes=({"CPU": 1},), **options):
    policy = Policy(graph, CostModel(load_profile("h100_estimate"), pack=pack_size))
    retries = Retries(max_failures, first_pause=1.0)
    claims = Claims(Heartbeat(store))
    turns = Turns({None: {"CPU": 1}}, lambda: nodes)
    return GraphSearcher(graph, store, lambda pack: {"pack": pack}, policy=policy, turns=turns, retries=retries, claims=claims, **options)


def die(searcher, trial_id, cause=None):
    searcher.on_trial_complete(trial_id=trial_id, error=True)
    searcher.on_trial_death(trial_id, cause)


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
    assert searcher.suggest("three") is None  # its worker may die
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
    searcher.on_trial_complete(trial_id="one", result={})
    assert graph.states[below.node] == "blocked"
    assert searcher.suggest("two") == {"pack": (lone.node,)}
    finish(store, lone.node)
    searcher.on_trial_complete(trial_id="two", result={})
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
    die(searcher, "one")
    assert graph.states[top.node] == "succeeded"
    assert searcher.suggest("two") == {"pack": (below.node,)}


def test_job_whose_worker_dies_starts_again_after_growing_pauses_and_fails_when_its_retries_are_used_up(store):
    top, below = chain()
    graph, clock = Graph([below]), Clock()
    searcher = searcher_of(graph, store, clock=clock)
    for attempt, pause in enumerate((1, 4, 16)):
        assert searcher.suggest(f"trial{attempt}") == {"pack": (top.node,)}
        die(searcher, f"trial{attempt}")
        assert graph.states[top.node] == "pending"
        clock.now += pause - 0.1
        assert searcher.suggest("early") is None
        clock.now += 0.2
    searcher.suggest("last")
    store.begin(top.node, {})
    die(searcher, "last", ActorDiedError())
    assert dict(graph.states) == {top.node: "failed", below.node: "blocked"}
    error = store.read_json(top.node, "FAILED.json")["error"]
    assert (
        error == "The worker died and so did those that took over: ActorDiedError: The actor died unexpectedly before finishing this task."
    )
    assert searcher.suggest("none") == Searcher.FINISHED


def packed(store, size=3, **options):
    top = source("s0")
    members = [transfer("t0", [top], seed) for seed in range(size)]
    graph = Graph(members)
    graph.mark(top.node, "cached")
    return graph, [member.node for member in members], searcher_of(graph, store, pack_size=size, **options)


def test_pack_whose_worker_dies_comes_back_one_by_one_uncharged_and_without_what_was_committed(store):
    clock = Clock()
    graph, nodes, searcher = packed(store, max_failures=0, clock=clock)
    assert searcher.suggest("together") == {"pack": tuple(nodes)}
    finish(store, nodes[0])
    die(searcher, "together", ActorDiedError())
    assert [graph.states[node] for node in nodes] == ["succeeded", "pending", "pending"]
    assert [searcher.suggest("two"), searcher.suggest("three"), searcher.suggest("four")] == [
        {"pack": (nodes[1],)},
        {"pack": (nodes[2],)},
        None,
    ]
    finish(store, nodes[1])
    searcher.on_trial_complete(trial_id="two", result={})
    die(searcher, "three", ActorDiedError())
    assert [graph.states[node] for node in nodes] == ["succeeded", "succeeded", "failed"]


def test_loss_of_a_node_uses_up_no_retry_and_casts_no_suspicion(store):
    clock = Clock()
    graph, nodes, searcher = packed(store, max_failures=0, clock=clock)
    for attempt in range(10):
        assert searcher.suggest(f"trial{attempt}") == {"pack": tuple(nodes)}
        die(searcher, f"trial{attempt}", NodeDiedError("gone"))
        clock.now += 1.0
    assert [graph.states[node] for node in nodes] == ["pending"] * 3


def test_pack_whose_node_leaves_is_ready_at_once_and_together_and_what_failed_in_it_has_failed(store):
    graph, nodes, searcher = packed(store, max_failures=0, clock=Clock())
    for attempt in range(30):
        assert searcher.suggest(f"trial{attempt}") == {"pack": tuple(nodes)}
        die(searcher, f"trial{attempt}", RayTaskError("step", "a traceback", NodeLeaves(Ending("stopped", tuple(nodes)))))
    searcher.suggest("last")
    store.begin(nodes[0], {})
    store.fail(nodes[0], "The training loss became nan.", "...")
    die(searcher, "last", RayTaskError("step", "a traceback", NodeLeaves(Ending("stopped", tuple(nodes[1:])))))
    assert [graph.states[node] for node in nodes] == ["failed", "pending", "pending"]
    assert searcher.suggest("after")["pack"][0] == nodes[1]


def test_job_that_loses_its_node_again_and_again_fails_with_one_sentence(store):
    clock = Clock()
    graph, (node,), searcher = packed(store, size=1, clock=clock)
    for loss in range(21):
        assert searcher.suggest(f"trial{loss}") == {"pack": (node,)}
        die(searcher, f"trial{loss}", NodeDiedError("gone"))
        clock.now += 1.0
    assert graph.states[node] == "failed"
    assert store.read_json(node, "FAILED.json")["error"] == (
        "The job lost its node 21 times: if no other job did, it may be what brings nodes down."
    )


def test_packs_that_are_handed_out_follow_the_nodes_of_the_cluster(store):
    clock, nodes = Clock(), [{"CPU": 1}]
    graph = Graph([source("s0", seed) for seed in range(20)])
    searcher = searcher_of(graph, store, clock=clock, nodes=nodes)

    def out(count):
        names = [f"{clock.now}-{number}" for number in range(count + 1)]
        given = [name for name in names if searcher.suggest(name)]
        for name in given:
            searcher.on_trial_start(name)
        return len(given)

    assert out(20) == 1 + LOOKAHEAD
    nodes.append({"CPU": 8})
    assert out(20) == 0
    clock.now += 10
    assert out(20) == 8
    nodes.pop()
    clock.now += 10
    searcher.on_trial_complete(trial_id="0.0-0", result={})
    assert out(20) == 0


def test_error_that_escapes_a_worker_is_named_when_the_retries_are_used_up(store):
    _, (node,), searcher = packed(store, size=1, max_failures=0)
    searcher.suggest("one")
    store.begin(node, {})
    die(searcher, "one", RayTaskError("step", "a long traceback", OSError(28, "No space left on device")))
    assert store.read_json(node, "FAILED.json")["error"] == (
        "The worker failed and so did those that took over: OSError: [Errno 28] No space left on device"
    )


def test_stopped_pack_is_pending_again_and_nothing_more_is_handed_out(store):
    top, below = chain()
    graph = Graph([below])
    searcher = searcher_of(graph, store)
    searcher.suggest("one")
    searcher.stop()
    assert searcher.suggest("two") == Searcher.FINISHED
    searcher.on_trial_complete(trial_id="one", result={ENDING: Ending("stopped", (top.node,))})
    assert graph.states[top.node] == "pending"


def test_cached_jobs_are_never_handed_out(store):
    top, below = chain()
    graph = Graph([below])
    graph.mark(top.node, "cached")
    assert searcher_of(graph, store).suggest("one") == {"pack": (below.node,)}


def test_members_of_a_pack_end_one_by_one(store):
    graph, nodes, searcher = packed(store)
    searcher.suggest("one")
    finish(store, nodes[0])
    finish(store, nodes[2])
    searcher.on_trial_complete(trial_id="one", result={})
    assert [graph.states[node] for node in nodes] == ["succeeded", "failed", "succeeded"]


def test_pack_that_memory_does_not_hold_comes_back_in_halves_until_each_job_is_alone(store):
    _, nodes, searcher = packed(store, size=8)
    sizes = []
    while (given := searcher.suggest(f"{len(sizes)}")) != Searcher.FINISHED:
        pack = given["pack"]
        for node in pack[: len(pack) == 1]:
            finish(store, node)
        searcher.on_trial_complete(trial_id=f"{len(sizes)}", result={ENDING: Ending("halve", pack)})
        sizes.append(len(pack))
    assert sizes == [8, 4, 2] + [1] * len(nodes)


def test_error_that_is_nobodys_in_particular_makes_every_job_of_the_pack_run_alone(store):
    graph, nodes, searcher = packed(store)
    searcher.suggest("together")
    finish(store, nodes[1])
    searcher.on_trial_complete(trial_id="together", result={ENDING: Ending("part", (nodes[0], nodes[2]))})
    assert [searcher.suggest(name) for name in ("two", "three")] == [{"pack": (nodes[0],)}, {"pack": (nodes[2],)}]
    assert graph.states[nodes[1]] == "succeeded"


def test_word_that_a_worker_could_not_leave_in_the_store_is_left_by_the_driver(store):
    graph, nodes, searcher = packed(store)
    searcher.suggest("one")
    finish(store, nodes[0])
    searcher.on_trial_complete(trial_id="one", result={ENDING: Ending("away", tuple(nodes), "The store could not be reached.")})
    assert [graph.states[node] for node in nodes] == ["succeeded", "failed", "failed"]
    assert store.read_json(nodes[1], "FAILED.json")["error"] == "The store could not be reached."
    assert (store.directory(nodes[1]) / "traceback.txt").read_text() == "The store could not be reached."


def test_listeners_hear_every_change(store):
    heard = []
    searcher = searcher_of(Graph([source("s0")]), store, listeners=[lambda node, state: heard.append(state)])
    searcher.suggest("one")
    searcher.on_trial_complete(trial_id="one", result={})
    assert heard == ["running", "failed"]


def test_copies_for_snapshots_hold_nothing_and_deep_copies_are_the_same_object(store):
    searcher = searcher_of(Graph([source("s0")]), store)
    assert copy.deepcopy(searcher) is searcher
    assert pickle.loads(pickle.dumps(searcher)).__dict__ == {}


def test_job_of_another_driver_is_waited_for_and_counts_as_done_when_that_driver_is(store):
    top, below = chain()
    graph, clock = Graph([below]), Clock()
    searcher = searcher_of(graph, store, clock=clock)
    with claiming(store) as other:
        assert other.claim(top.node)
        assert searcher.suggest("one") is None
        finish(store, top.node)
        other.release(top.node, done=True)
        clock.now += 1
        assert searcher.suggest("two") == {"pack": (below.node,)}
    assert graph.states[top.node] == "cached"


def test_job_that_failed_with_another_driver_has_failed(store):
    graph, clock = Graph([source("s0")]), Clock()
    (node,) = graph.nodes()
    searcher = searcher_of(graph, store, clock=clock)
    store.fail(node, "long ago", "...")
    with claiming(store) as other:
        other.claim(node)
        assert searcher.suggest("one") is None
        store.begin(node, {})
        store.fail(node, "just now", "...")
        clock.now += 1
        assert searcher.suggest("two") is None  # it may be tried again there
        other.release(node, done=False)
        clock.now += 1
        assert searcher.suggest("three") == Searcher.FINISHED
    assert graph.states[node] == "failed"


def test_job_that_another_driver_left_unfinished_is_handed_out_although_it_had_failed_once(store):
    graph, clock = Graph([source("s0")]), Clock()
    (node,) = graph.nodes()
    searcher = searcher_of(graph, store, clock=clock)
    store.fail(node, "long ago", "...")
    with claiming(store) as other:
        other.claim(node)
        assert searcher.suggest("one") is None
    clock.now += 1
    assert searcher.suggest("two") == {"pack": (node,)}


def test_job_that_was_done_elsewhere_before_it_is_handed_out_is_not_trained_again(store):
    top, below = chain()
    graph = Graph([below])
    searcher = searcher_of(graph, store)
    finish(store, top.node)
    assert searcher.suggest("one") == {"pack": (below.node,)}
    assert graph.states[top.node] == "cached"


def test_pack_starts_without_the_members_that_another_driver_has(store):
    _, nodes, searcher = packed(store)
    with claiming(store) as other:
        other.claim(nodes[0])
        assert searcher.suggest("one") == {"pack": tuple(nodes[1:])}
        assert searcher.suggest("two") is None
