"""The simulator and its bounds, against schedules found by trying all of them on small graphs."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.graph import Graph
from orchestrator.planning.cost import CostModel
from orchestrator.planning.packing import FirstCome, Policy
from orchestrator.planning.profile import load_profile
from orchestrator.planning.simulate import Barrier, lower_bounds, simulate, slices
from tests.orchestrator.doubles import make_job, source, transfer, two_stages
from tests.orchestrator.test_packing import with_epochs

PROFILE = dataclasses.replace(
    load_profile("h100_estimate"),
    worker_seconds=0.0,
    rates=tuple(dataclasses.replace(rates, load_seconds=0.0) for rates in load_profile("h100_estimate").rates),
)


def make_cost(pack: int = 1) -> CostModel:
    return CostModel(PROFILE, pack=pack)


@st.composite
def small_graphs(draw):
    """At most six jobs in two stages."""
    sources = [with_epochs(source(f"s{n}"), draw(st.integers(1, 20))) for n in range(draw(st.integers(1, 3)))]
    targets = [
        with_epochs(
            transfer("t", draw(st.lists(st.sampled_from(sources), min_size=1, max_size=2, unique=True)), n), draw(st.integers(1, 20))
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    return [*sources, *targets]


def partitions(items, largest):
    """All ways to put the items into groups of at most so many."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(min(largest, len(items))):
        for mates in itertools.combinations(rest, size):
            left = [item for item in rest if item not in mates]
            for others in partitions(left, largest):
                yield [(first, *mates), *others]


def shortest_makespan(jobs, cost, devices, largest):
    """The best of all packings and all orders; an order is played as a list schedule, and one of them is optimal."""
    best = float("inf")
    for packs in partitions(jobs, largest):
        durations = {pack: cost.seconds([cost.estimate(job) for job in pack]) for pack in packs}
        for order in itertools.permutations(packs):
            best = min(best, list_schedule(order, durations, devices))
    return best


def list_schedule(order, durations, devices):
    free, ends = [0.0] * devices, {}
    for pack in order:
        parents = {parent for job in pack for parent in job.parents}
        if not parents <= ends.keys():
            return float("inf")
        device = min(range(devices), key=free.__getitem__)
        begin = max([free[device], *(ends[parent] for parent in parents)])
        free[device] = begin + durations[pack]
        ends |= dict.fromkeys(pack, free[device])
    return max(ends.values())


@settings(deadline=None, max_examples=60)
@given(small_graphs(), st.integers(1, 3))
def test_makespan_lies_between_the_best_of_all_schedules_and_graham_bound(jobs, devices):
    cost = make_cost()
    best = shortest_makespan(jobs, cost, devices, 1)
    played = simulate(Graph(jobs), cost, devices)
    assert lower_bounds(Graph(jobs), cost, devices).makespan <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= played.makespan <= best * (2 - 1 / devices) * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 2))
def test_packs_never_beat_the_lower_bound_and_come_near_the_best(epochs, devices):
    jobs = [with_epochs(source("s", seed), count) for seed, count in enumerate(epochs)]
    cost = make_cost(pack=4)
    best = shortest_makespan(jobs, cost, devices, 4)
    played = simulate(Graph(jobs), cost, devices)
    assert lower_bounds(Graph(jobs), cost, devices).makespan <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= played.makespan <= 1.5 * best


@settings(deadline=None, max_examples=40)
@given(small_graphs(), st.integers(1, 3), st.sampled_from([Policy, FirstCome, Barrier]), st.floats(0, 0.5))
def test_schedule_is_one_that_could_run(jobs, devices, policy, noise):
    graph = Graph(jobs)
    played = simulate(graph, make_cost(pack=2), devices, policy, noise=noise)
    ends = {node: pack.end for pack in played.packs for node in pack.nodes}
    assert ends.keys() == set(graph.nodes())
    for pack in played.packs:
        assert all(pack.begin >= ends[parent] for node in pack.nodes for parent in graph.parents(node))
    for device in range(devices):
        spans = sorted((pack.begin, pack.end) for pack in played.packs if pack.device == device)
        assert all(later[0] >= earlier[1] for earlier, later in itertools.pairwise(spans))
    assert graph.counts()["succeeded"] == len(graph)
    assert played.utilisation <= 1 + 1e-9


def test_done_jobs_cost_nothing():
    graph = two_stages(sources=3, targets=4)
    whole = simulate(two_stages(sources=3, targets=4), make_cost(), 1)
    for node in graph.nodes():
        if graph.stage_of(node) == "source":
            graph.mark(node, "cached")
    rest = simulate(graph, make_cost(), 1)
    assert rest.makespan < whole.makespan
    assert sum(len(pack.nodes) for pack in rest.packs) == 4
    everything = simulate(graph, make_cost(), 1)
    assert everything.makespan == 0
    assert everything.over_bound == 1


def test_barrier_holds_the_second_stage_until_the_first_is_done():
    early, late, other = source("early"), with_epochs(source("late"), 200), with_epochs(make_job("single", "full_ft", "other"), 400)
    jobs = [transfer("t", [early]), transfer("u", [late]), other]
    graph = Graph(jobs)
    with_barrier = simulate(graph, make_cost(), 3, Barrier)
    begins = {pack.nodes[0]: pack.begin for pack in with_barrier.packs}
    ends = {pack.nodes[0]: pack.end for pack in with_barrier.packs}
    without = {pack.nodes[0]: pack.begin for pack in simulate(Graph(jobs), make_cost(), 3).packs}
    assert begins[jobs[0].node] == ends[late.node] < ends[other.node]
    assert without[jobs[0].node] == ends[early.node]


def test_slices_add_up_to_the_devices_time():
    graph = two_stages(sources=3, targets=9)
    played = simulate(graph, make_cost(pack=4), 2)
    parts = slices(graph, played)
    assert sum(part.device_seconds for part in parts) == pytest.approx(played.device_seconds)
    assert {(part.stage, part.method): part.jobs for part in parts} == {("source", "adapter"): 3, ("transfer", "scalearn"): 9}


def test_first_pack_of_a_device_pays_for_its_worker():
    cost = CostModel(load_profile("h100_estimate"), pack=1)
    jobs = [source("s", seed) for seed in range(3)]
    played = simulate(Graph(jobs), cost, 1)
    alone = cost.estimate(jobs[0]).seconds
    assert played.makespan == pytest.approx(3 * alone + cost.worker_seconds)
