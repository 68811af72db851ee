"""The simulator and its bounds, against schedules found by trying all of them on small graphs."""

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.graph import Graph
from orchestrator.definition.resources import shape_of
from orchestrator.definition.sweep import Sweep
from orchestrator.forecast.simulate import Barrier, FirstCome, lower_bounds, simulate, slices
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel, cost_of
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.turns import LOOKAHEAD
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import make_job, source, transfer, two_stages
from tests.orchestrator.scheduling.test_policy import with_epochs

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


PARTS = """
name: parts
benchmark: glue
backbone: roberta-base
targets: [rte]
seeds: [0, 1, 2, 3]
resources: {source: {gpu: 1}, transfer: {gpu: 1}, methods: {scalearn: {gpu: 0.25}}}
methods:
  scalearn: {}
  scalearn_pp: {}
"""


def play_parts(text: str = PARTS, devices: int = 1):
    sweep = Sweep.from_text(text)
    graph = sweep.expand()
    for node in graph.nodes():
        if graph.stage_of(node) == "source":
            graph.mark(node, "cached")
    cost = cost_of(sweep, PROFILE)
    return graph, cost, simulate(graph, cost, devices, shape=lambda job: shape_of(sweep.resources.of(job.config.stage, job.config.method)))


def test_plan_packs_no_jobs_of_unlike_resources_together():
    graph, _, played = play_parts()
    methods = [{graph.job(node).config.method for node in pack.nodes} for pack in played.packs]
    assert sorted(map(sorted, {frozenset(names) for names in methods})) == [["scalearn"], ["scalearn_pp"]]
    _, _, alike = play_parts(PARTS.replace("0.25", "1"))
    assert any(len({graph.job(node).config.method for node in pack.nodes}) == 2 for pack in alike.packs)


def test_four_packs_with_a_quarter_each_share_a_device_its_memory_and_its_time():
    text = PARTS.replace("seeds: [0, 1, 2, 3]", "seeds: [0, 1, 2, 3, 4, 5, 6, 7]").replace("  scalearn_pp: {}\n", "")
    graph, cost, played = play_parts(text, devices=2)
    assert [pack.begin for pack in played.packs] == [0.0] * 8
    assert Counter(pack.device for pack in played.packs) == {0: 4, 1: 4}
    assert {pack.amount for pack in played.packs} == {0.25}
    assert played.utilisation <= 1 + 1e-9
    _, undivided, whole = play_parts(text.replace("0.25", "1"), devices=2)
    job = next(job for job in graph if job.config.stage == "transfer")
    assert cost.estimate(job).room == undivided.estimate(job).room / 4
    assert undivided.estimate(job).seconds < cost.estimate(job).seconds < 4 * undivided.estimate(job).seconds
    assert played.makespan >= whole.makespan / 2


def test_jobs_that_need_more_devices_than_there_are_are_refused():
    with pytest.raises(UserError, match="needs 2 GPU"):
        play_parts(PARTS.replace("transfer: {gpu: 1}", "transfer: {gpu: 2}"))


def test_no_more_packs_wait_than_the_live_searcher_lets_wait():
    """What is handed out ahead is fixed, so the simulator must not see more of the future than a run does."""
    handed, most = [], [0]

    class Watched(Policy):
        def take(self, idle=1, now=0.0, closed=()):
            pack = super().take(idle, now, closed)
            handed.extend([1] if pack else [])
            most[0] = max(most[0], sum(handed))
            return pack

        def ended(self, pack):
            super().ended(pack)
            handed.append(-1)

    simulate(Graph([source("s", seed) for seed in range(20)]), make_cost(), 3, Watched)
    assert most[0] == 3 + LOOKAHEAD
