"""What a budget admits, and the order in which a short one is spent."""

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import Budget
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.budget import Spending, cell_by_cell
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.policy import Policy
from tests.orchestrator.helpers.doubles import source, transfer

HOUR = 3600.0


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def spending_of(clock: Clock, devices: float = 1.0, **budget: float) -> Spending:
    return Spending(Budget(**budget), lambda node: devices, begun=clock(), clock=clock)


def policy_of(graph: Graph, slots: int = 1) -> Policy:
    return Policy(graph, CostModel(load_profile("h100_estimate"), pack=1), slots)


def run_all(graph: Graph, policy: Policy) -> list[str]:
    """Hand out one job after the other, each of which succeeds, and return their order."""
    order = []
    while pack := policy.take():
        for node in pack:
            order.append(node)
            graph.mark(node, "running")
            graph.mark(node, "succeeded")
            policy.succeeded(node)
        policy.ended(pack)
    return order


def test_hours_admit_what_ends_in_time():
    clock = Clock()
    spending = spending_of(clock, hours=2)
    assert spending.admits("a", 0, 2 * HOUR)
    assert not spending.admits("a", 1, 2 * HOUR)
    clock.now += HOUR
    assert not spending.admits("a", 0, HOUR + 1)
    assert not spending.is_over()
    clock.now += HOUR
    assert spending.is_over()


def test_device_hours_admit_what_running_packs_leave():
    clock = Clock()
    spending = spending_of(clock, devices=2, device_hours=10)
    spending.handed_out("one", "a", 3 * HOUR)
    assert spending.admits("b", 0, 2 * HOUR)
    assert not spending.admits("b", 0, 2 * HOUR + 1)
    spending.started("one")
    clock.now += HOUR
    spending.ended("one")  # sooner than expected
    assert spending.spent() == (HOUR, 2 * HOUR)
    assert spending.admits("b", 0, 4 * HOUR)


def test_device_hours_count_from_when_a_pack_has_its_device():
    clock = Clock()
    spending = spending_of(clock, device_hours=1)
    spending.handed_out("one", "a", 10)
    clock.now += 5 * HOUR
    assert not spending.is_over()
    spending.started("one")
    clock.now += HOUR
    assert spending.is_over()


def test_without_a_budget_everything_is_admitted():
    clock = Clock()
    spending = spending_of(clock)
    clock.now += 1e9
    assert not spending.is_limited
    assert not spending.is_over()
    assert spending.admits("a", 0, 1e9)


def two_cells(begun: int) -> tuple[Graph, list[str], list[str]]:
    """Two targets on one source each, with two and three seeds; of the larger one so many are done."""
    small = [transfer("small", [source("s0")], seed) for seed in range(2)]
    large = [transfer("large", [source("s1")], seed) for seed in range(3)]
    graph = Graph([*large, *small])
    if begun:
        graph.mark(source("s1").node, "cached")
    for job in large[:begun]:
        graph.mark(job.node, "cached")
    return graph, [job.node for job in small], [job.node for job in large]


def test_cell_that_is_begun_comes_before_a_new_one_even_if_it_needs_more():
    graph, small, large = two_cells(begun=1)
    ranks = cell_by_cell(graph, lambda node: 1.0 if node in small else 5.0)
    assert max(ranks[node] for node in large[1:]) < min(ranks[node] for node in [*small, source("s0").node])
    assert large[0] not in ranks


def test_of_new_cells_the_one_that_needs_least_comes_first_with_its_sources():
    graph, small, large = two_cells(begun=0)
    ranks = cell_by_cell(graph, lambda node: 1.0)
    assert {ranks[node] for node in [*small, source("s0").node]} == {1}
    assert {ranks[node] for node in [*large, source("s1").node]} == {2}


def test_source_that_an_earlier_cell_needs_costs_a_later_one_nothing():
    shared, own = source("shared"), source("own")
    first = transfer("first", [shared])
    sharing, alone = transfer("sharing", [shared]), transfer("alone", [own])
    share = {shared.node: 10.0, own.node: 5.0, first.node: 1.0, sharing.node: 7.0, alone.node: 3.0}
    graph = Graph([first, sharing, alone])
    assert cell_by_cell(graph, share.__getitem__)[alone.node] == 1
    share[own.node] = 9.0  # now the shared source comes first, and whoever shares it needs less than `alone`
    ranks = cell_by_cell(graph, share.__getitem__)
    assert (ranks[first.node], ranks[sharing.node], ranks[alone.node]) == (1, 2, 3)


def test_short_budget_is_spent_cell_by_cell_and_an_ample_one_by_the_longest_path():
    def order(hours: float) -> list[str]:
        graph, small, _ = two_cells(begun=0)
        policy, clock = policy_of(graph), Clock()
        spending = spending_of(clock, hours=hours)
        spending.follow(policy, graph)
        return ["small" if node in (*small, source("s0").node) else "large" for node in run_all(graph, policy)]

    graph = two_cells(begun=0)[0]
    whole = policy_of(graph).left()[0]
    assert order(0.5 * whole / HOUR) == ["small"] * 3 + ["large"] * 4
    assert order(2 * whole / HOUR)[0] == "large"


def test_job_that_is_not_admitted_gives_way_to_a_shorter_one_and_is_offered_again_when_a_pack_has_ended():
    graph = Graph([source("s0"), source("s1")])
    long, short = graph.nodes()
    policy = policy_of(graph)
    open_to = {short}
    policy.limit(lambda node, wait, seconds: node in open_to)
    assert policy.take() == (short,)
    graph.mark(short, "running")
    assert policy.take() == ()
    assert policy.refuses_all
    open_to.add(long)
    graph.mark(short, "succeeded")
    policy.ended((short,))
    assert policy.take() == (long,)


def test_pack_is_no_larger_than_what_is_admitted(tmp_path):
    graph = Graph([source("s0", seed) for seed in range(4)])
    policy = Policy(graph, CostModel(load_profile("h100_estimate"), pack=4))
    alone, two = policy.seconds(graph.nodes()[:1]), policy.seconds(graph.nodes()[:2])
    policy.limit(lambda node, wait, seconds: seconds <= two)
    assert alone < two < policy.seconds(graph.nodes()[:3])
    assert len(policy.take()) == 2


def test_pack_that_waits_for_a_device_must_end_in_time_too():
    graph = Graph([source("s0"), source("s1")])
    policy = policy_of(graph)
    waits = []
    policy.limit(lambda node, wait, seconds: bool(waits.append(wait)) or True)
    (first,) = policy.take(idle=1, now=0.0)
    policy.take(idle=0, now=1.0)
    assert waits == [0.0, pytest.approx(policy.seconds([first]) - 1.0)]


def test_searcher_ends_when_the_budget_admits_nothing_that_is_left(tmp_path):
    from tests.orchestrator.execution.test_search import Clock as SearchClock
    from tests.orchestrator.execution.test_search import chain, finish, searcher_of

    top, below = chain()
    graph, clock, store = Graph([below]), SearchClock(), Store(tmp_path)
    seconds = policy_of(graph).seconds([top.node])
    spending = Spending(Budget(hours=1.5 * seconds / HOUR), lambda node: 1.0, clock=clock)
    searcher = searcher_of(graph, store, clock=clock, spending=spending)
    assert searcher.suggest("one") == {"pack": (top.node,)}
    clock.now += seconds
    finish(store, top.node)
    searcher.on_trial_complete(trial_id="one", result={})
    assert searcher.suggest("two") == "FINISHED"
    assert dict(graph.states) == {top.node: "succeeded", below.node: "pending"}
