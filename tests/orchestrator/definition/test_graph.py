"""The graph alone: order, readiness, blocking and restriction, on small cases and on random DAGs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.graph import DONE, Graph, Job
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError

OPTIMISATION = OptimisationConfig(learning_rate=6e-3)


def make_job(number: int, parents: tuple[Job, ...] = (), stage: str = "transfer") -> Job:
    data = (DataConfig(task=f"toy/t{number}", origin="package:toy==1"),)
    method = "adapter" if stage == "source" else "scalearn"
    config = JobConfig("toy", stage, method, data, "minilm", "package:m==1", OPTIMISATION, seed=0)  # type: ignore[arg-type]
    return Job(config, parents)


def diamond() -> tuple[Job, Job, Job, Job]:
    top = make_job(0, stage="source")
    left, right = make_job(1, (top,)), make_job(2, (top,))
    return top, left, right, make_job(3, (left, right))


def test_graph_built_from_leaf_holds_every_ancestor_parents_first():
    top, left, right, bottom = diamond()
    assert Graph([bottom, left]).nodes() == (top.node, left.node, right.node, bottom.node)


def test_equal_jobs_count_once_and_share_their_node():
    graph = Graph([make_job(1, (make_job(0),)), make_job(2, (make_job(0),))])
    assert len(graph) == 3
    assert graph.children(make_job(0).node) == (make_job(1, (make_job(0),)).node, make_job(2, (make_job(0),)).node)


def test_ready_waits_for_all_parents():
    top, left, right, bottom = diamond()
    graph = Graph([bottom])
    assert graph.ready() == [top.node]
    graph.mark(top.node, "running")
    assert graph.ready() == []
    graph.mark(top.node, "succeeded")
    assert graph.ready() == [left.node, right.node]
    graph.mark(left.node, "cached")
    assert graph.ready() == [right.node]
    graph.mark(right.node, "succeeded")
    assert graph.ready() == [bottom.node]


def test_ready_lists_the_job_that_most_wait_for_first_and_honours_limit():
    lone, top = make_job(9), make_job(0)
    graph = Graph([lone, make_job(1, (top,)), make_job(2, (top,))])
    assert graph.ready() == [top.node, lone.node]
    assert graph.ready(limit=1) == [top.node]


def test_failure_blocks_exactly_the_descendants_and_names_the_cause():
    top, left, right, bottom = diamond()
    lone = make_job(9)
    graph = Graph([bottom, lone])
    graph.mark(top.node, "succeeded")
    graph.mark(left.node, "failed")
    assert graph.blocked_by(bottom.node) == left.node
    assert graph.blocked_by(right.node) is None
    assert graph.ready() == [right.node, lone.node]
    graph.mark(right.node, "succeeded")
    assert not graph.is_finished()
    graph.mark(lone.node, "succeeded")
    assert graph.is_finished()
    assert graph.counts() == {"pending": 0, "running": 0, "succeeded": 3, "cached": 0, "failed": 1, "blocked": 1}


def test_failed_job_that_gets_another_chance_releases_what_it_blocked():
    top, left, right, bottom = diamond()
    graph = Graph([bottom])
    graph.mark(top.node, "failed")
    assert [graph.blocked_by(job.node) for job in (left, right, bottom)] == [top.node] * 3
    graph.mark(top.node, "pending")
    assert graph.ready() == [top.node]
    assert graph.counts()["blocked"] == 0


def test_blocked_job_found_complete_in_the_store_is_done():
    top, left, _, bottom = diamond()
    graph = Graph([bottom])
    graph.mark(top.node, "failed")
    graph.mark(left.node, "cached")
    assert graph.states[left.node] == "cached"
    assert graph.blocked_by(bottom.node) == top.node


def test_done_job_set_back_makes_its_children_wait_again():
    top, left, *_, bottom = diamond()
    graph = Graph([bottom])
    graph.mark(top.node, "cached")
    graph.mark(top.node, "pending")
    assert graph.ready() == [top.node]
    with pytest.raises(ValueError, match="cannot run"):
        graph.mark(left.node, "running")


def test_mark_refuses_states_that_follow_from_others():
    (node,) = Graph([make_job(0)]).nodes()
    with pytest.raises(ValueError, match="blocked"):
        Graph([make_job(0)]).mark(node, "blocked")
    with pytest.raises(KeyError):
        Graph([make_job(0)]).mark("nowhere", "failed")


def test_adapter_that_feeds_nothing_counts_as_single():
    fed, lone = make_job(0, stage="source"), make_job(1, stage="source")
    graph = Graph([make_job(2, (fed,)), lone])
    assert graph.stage_of(fed.node) == "source"
    assert graph.stage_of(lone.node) == "single"
    assert graph.restrict("/t0/").stage_of(fed.node) == "source"


def test_restrict_keeps_matches_and_what_they_need():
    top, left, right, bottom = diamond()
    graph = Graph([bottom])
    assert graph.restrict(r"/t1/").nodes() == (top.node, left.node)
    assert len(graph.restrict(bottom.fingerprint)) == 4
    assert right.node not in graph.restrict(r"/t1/")


@pytest.mark.parametrize(("pattern", "sentence"), [("nothing", "matches none of the 4 jobs"), ("(", "not a regular expression")])
def test_restrict_to_nothing_is_the_users_mistake(pattern: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        Graph([diamond()[3]]).restrict(pattern)


def test_chain_longer_than_the_recursion_limit_builds_and_runs():
    job = make_job(0)
    for number in range(1, 1500):
        job = make_job(number, (job,))
    graph = Graph([job])
    for node in graph.nodes():
        assert graph.ready() == [node]
        graph.mark(node, "succeeded")
    assert graph.is_finished()


@st.composite
def dags(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 12))):
        chosen = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        jobs.append(make_job(number, tuple(jobs[index] for index in sorted(chosen))))
    return jobs


def expected_blocked(graph: Graph) -> set[str]:
    """Recompute from scratch: undone, not running, with a failed or blocked parent."""
    blocked: set[str] = set()
    for node in graph.nodes():
        bad = any(graph.states[p] == "failed" or p in blocked for p in graph.parents(node))
        if bad and graph.states[node] in ("pending", "blocked"):
            blocked.add(node)
    return blocked


@settings(max_examples=150, deadline=None)
@given(dags(), st.data())
def test_states_after_any_marks_equal_those_computed_from_scratch(jobs: list[Job], data: st.DataObject):
    graph = Graph(jobs)
    for _ in range(data.draw(st.integers(0, 25))):
        node = data.draw(st.sampled_from(graph.nodes()))
        state = data.draw(st.sampled_from(("pending", "running", "succeeded", "cached", "failed")))
        may_run = all(graph.states[p] in DONE for p in graph.parents(node)) and graph.states[node] not in DONE
        if state == "running" and not may_run:
            with pytest.raises(ValueError, match="cannot run"):
                graph.mark(node, "running")
            continue
        graph.mark(node, state)
        states = dict(graph.states)
        assert {n for n, s in states.items() if s == "blocked"} == expected_blocked(graph)
        assert set(graph.ready()) == {n for n, s in states.items() if s == "pending" and all(states[p] in DONE for p in graph.parents(n))}
        assert all(states[graph.blocked_by(n) or ""] == "failed" for n, s in states.items() if s == "blocked")
        assert all(graph.blocked_by(n) is None for n, s in states.items() if s != "blocked")
        assert graph.counts() == {s: list(states.values()).count(s) for s in graph.counts()}


@settings(max_examples=100, deadline=None)
@given(dags(), st.randoms(use_true_random=False))
def test_any_order_of_running_ends_with_each_job_started_once_after_its_parents(jobs: list[Job], random):
    graph = Graph(jobs)
    started: list[str] = []
    while not graph.is_finished():
        ready = graph.ready()
        assert ready, "nothing ready and not finished: a scheduler would hang"
        node = random.choice(ready)
        assert set(graph.parents(node)) <= set(started)
        started.append(node)
        graph.mark(node, "running")
        graph.mark(node, random.choice(["succeeded", "succeeded", "failed"]))
    assert len(started) == len(set(started))
    assert graph.counts()["pending"] == 0


@settings(max_examples=60, deadline=None)
@given(dags(), st.data())
def test_extended_graph_is_that_of_all_jobs_with_the_states_that_were_known(jobs: list[Job], data: st.DataObject):
    count = data.draw(st.integers(1, len(jobs)))
    graph = Graph(jobs[:count])
    for node in data.draw(st.lists(st.sampled_from(graph.nodes()))):
        graph.mark(node, data.draw(st.sampled_from(("succeeded", "cached", "failed", "pending"))))
    whole = Graph([*graph, *jobs])
    for node, state in graph.states.items():
        if state not in ("pending", "blocked"):
            whole.mark(node, state)
    graph.extend(jobs)
    assert graph.nodes() == whole.nodes()
    assert (dict(graph.states), graph.ready(), graph.counts()) == (dict(whole.states), whole.ready(), whole.counts())


def test_jobs_keep_running_while_the_graph_is_extended():
    first, later = (make_job(number) for number in (0, 1))
    graph = Graph([first])
    graph.mark(first.node, "running")
    graph.extend([later])
    assert dict(graph.states) == {first.node: "running", later.node: "pending"}
