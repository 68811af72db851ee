"""A searcher whose graph grows while it runs, by hand, as Tune calls it: no Ray is running."""

import pytest
from ray.tune.search import Searcher

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from tests.orchestrator.execution.test_search import chain, finish, searcher_of
from tests.orchestrator.helpers.doubles import source


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_graph_that_grows_when_its_jobs_have_ended_is_run_to_its_new_end(store):
    top, below = chain()
    later = [source("s1"), source("s2")]
    graph, heard = Graph([below]), []

    def grow():
        if graph.states[below.node] != "succeeded" or later[0].node in graph:
            return []
        graph.extend(later)
        graph.mark(later[0].node, "cached")
        return [job.node for job in later]

    searcher = searcher_of(graph, store, grow=grow, listeners=[lambda node, state: heard.append((node, state))])
    for trial, job in (("one", top), ("two", below)):
        assert searcher.suggest(trial) == {"pack": (job.node,)}
        finish(store, job.node)
        searcher.on_trial_complete(trial_id=trial, result={})
    assert searcher.suggest("three") == {"pack": (later[1].node,)}
    assert (later[0].node, "cached") in heard
    finish(store, later[1].node)
    searcher.on_trial_complete(trial_id="three", result={})
    assert searcher.suggest("four") == Searcher.FINISHED


def test_growth_by_jobs_that_another_driver_had_finished_is_not_missed(store):
    first, second = source("s0"), source("s1")
    graph = Graph([first])
    finish(store, first.node)  # after this driver looked

    def grow():
        if second.node in graph:
            return []
        graph.extend([second])
        return [second.node]

    searcher = searcher_of(graph, store, grow=grow)
    assert searcher.suggest("one") is None
    assert searcher.suggest("one") == {"pack": (second.node,)}
