"""The order of ready jobs and what shares a pack."""

import dataclasses
import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.forecast.simulate import FirstCome
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel, Memory
from orchestrator.scheduling.pack_key import length_class, pack_key
from orchestrator.scheduling.paths import remaining_paths
from orchestrator.scheduling.policy import Policy
from tests.orchestrator.helpers.doubles import make_job, source, transfer, two_stages

PROFILE = load_profile("h100_estimate")


def make_cost(pack: int = 1, **changes: object) -> CostModel:
    return CostModel(dataclasses.replace(PROFILE, **changes), pack=pack)


def with_epochs(job, epochs):
    return dataclasses.replace(
        job, config=dataclasses.replace(job.config, optimisation=dataclasses.replace(job.config.optimisation, epochs=epochs))
    )


def drain(policy: Policy, idle: int = 1) -> list[tuple[str, ...]]:
    return list(iter(lambda: policy.take(idle), ()))


def test_longest_job_goes_first():
    jobs = [with_epochs(source(f"s{epochs}"), epochs) for epochs in (3, 9, 1)]
    assert drain(Policy(Graph(jobs), make_cost())) == [(jobs[1].node,), (jobs[0].node,), (jobs[2].node,)]


def test_short_job_that_much_waits_for_goes_before_a_long_one():
    short, long = with_epochs(source("short"), 1), with_epochs(source("long"), 20)
    graph = Graph([long, *(transfer("t", [short], seed) for seed in range(40))])
    assert Policy(graph, make_cost(), slots=2).take() == (short.node,)


def test_pack_takes_only_its_own_kind_up_to_its_size():
    top = source("s0")
    same = [transfer("t0", [top], seed) for seed in range(4)]
    other = transfer("t1", [top])
    graph = Graph([*same, other])
    graph.mark(top.node, "cached")
    packs = drain(Policy(graph, make_cost(pack=3)))
    assert sorted(map(len, packs)) == [1, 1, 3]
    assert (other.node,) in packs


def test_job_is_queued_once_its_last_parent_is_done():
    first, second = source("s0"), source("s1")
    below = transfer("t0", [first, second])
    graph = Graph([below])
    policy = Policy(graph, make_cost())
    assert len(drain(policy)) == 2
    for parent in (first, second):
        assert policy.take() == ()
        graph.mark(parent.node, "succeeded")
        policy.succeeded(parent.node)
    assert policy.take() == (below.node,)


def test_work_below_a_failed_job_no_longer_counts():
    graph = two_stages(sources=1, targets=5)
    policy = Policy(graph, make_cost())
    (top,) = policy.take()
    before = policy.horizon()
    graph.mark(top, "running")
    graph.mark(top, "failed")
    policy.ended((top,))
    policy.failed(top)
    assert before > 0
    assert policy.horizon() == pytest.approx(0)
    assert policy.take() == ()


def test_jobs_are_not_packed_while_devices_are_idle():
    jobs = [source("s0", seed) for seed in range(4)]
    assert sorted(map(len, drain(Policy(Graph(jobs), make_cost(pack=4), slots=4), idle=4))) == [1, 1, 1, 1]
    assert sorted(map(len, drain(Policy(Graph(jobs), make_cost(pack=4), slots=1)))) == [4]


def test_jobs_that_wait_for_gpus_leave_the_cpus_to_others():
    """100 jobs for 4 GPUs come first in the order; 64 CPUs must not idle behind them."""
    first = [with_epochs(source("long", seed), 30) for seed in range(100)]
    graph = Graph([*first, *(with_epochs(source("short", seed), 1) for seed in range(100))])
    policy = Policy(graph, make_cost(), slots=64, apart=lambda job: "gpu" if "long" in job.node else "cpu")
    policy.bound({"gpu": 4, "cpu": 64}, ahead=1)
    packs = drain(policy, idle=64)
    assert sum("long" in node for (node,) in packs) == 4 + 1
    assert len(packs) == 64 + 2
    policy.ended(packs[0])
    assert policy.take(closed={"gpu", "cpu"}) == ()
    assert "short" in policy.take(closed={"gpu"})[0]
    policy.bound({"gpu": 0, "cpu": 100}, ahead=1)
    later = drain(policy)
    assert later
    assert all("short" in node for (node,) in later)


def test_pack_that_is_handed_out_ahead_leaves_as_much_to_every_other_device():
    policy = Policy(Graph([source("s0", seed) for seed in range(12)]), make_cost(pack=4), slots=2)
    policy.bound({None: 2}, ahead=1)
    assert [len(policy.take(idle)) for idle in (2, 1, 0)] == [4, 4, 2]


def test_pack_does_not_grow_beyond_the_end_of_the_sweep():
    long = with_epochs(source("long"), 100)
    top = source("s0")
    graph = Graph([transfer("t", [top, long]), *(with_epochs(source("x", seed), 99) for seed in range(8))])
    assert policy_takes(graph, slots=64) == (long.node,)  # what follows it cannot wait for a pack
    assert len(policy_takes(graph, slots=1)) >= 9  # one device has to do it all anyway


def policy_takes(graph: Graph, slots: int) -> tuple[str, ...]:
    return Policy(graph, make_cost(pack=16), slots).take(idle=1)


def test_kind_is_the_same_for_seeds_and_differs_for_targets_and_sources():
    first, second = source("s0"), source("s1")
    same = [pack_key(transfer("t0", [first, second], seed)) for seed in (0, 1)]
    assert same[0] == same[1]
    assert pack_key(transfer("t1", [first, second])) != same[0]
    assert pack_key(transfer("t0", [second, first])) != same[0]


def test_jobs_on_few_shot_subsets_of_one_target_share_a_pack():
    job = transfer("t0", [source("s0")])
    (data,) = job.config.data
    subsets = [replace(job, config=replace(job.config, data=(replace(data, few_shot=count),))) for count in (4, 16)]
    assert pack_key(subsets[0]) == pack_key(subsets[1]) == pack_key(job)


def test_sizes_of_the_few_shot_sweep_share_packs():
    graph = Sweep.load("few_shot").expand()
    for job in graph:
        if job.config.stage == "source":
            graph.mark(job.node, "cached")
    transfers = [job for job in graph if job.config.stage == "transfer"]
    assert len(transfers) == 800
    assert len({pack_key(job) for job in transfers}) == 8
    packs = [[graph.job(node).config.data[0].few_shot for node in pack] for pack in drain(Policy(graph, CostModel(PROFILE)))]
    assert {frozenset(sizes) for sizes in packs if len(set(sizes)) > 1}
    assert len(packs) <= 8 * math.ceil(100 / 16)


def test_job_waits_for_its_own_sources_while_others_of_its_kind_start():
    own = [dataclasses.replace(job, config=replace(job.config, data=(replace(job.config.data[0], few_shot=rows),)))
           for job in [source("t0")] for rows in (4, 16)]  # fmt: skip
    few, many = (transfer("t0", [source("s0"), parent]) for parent in own)
    assert pack_key(few) == pack_key(many)
    graph = Graph([few, many])
    for parent in (*few.parents[:1], own[0]):
        graph.mark(parent.node, "cached")
    policy = Policy(graph, make_cost(pack=4))
    taken = drain(policy)
    assert (few.node,) in taken
    assert not any(many.node in pack for pack in taken)
    graph.mark(own[1].node, "succeeded")
    policy.succeeded(own[1].node)
    assert policy.take() == (many.node,)


GIGABYTE = 1e9
LIGHT, HEAVY = (Memory("GPU", 20 * GIGABYTE, GIGABYTE, 0.0, each * GIGABYTE, GIGABYTE) for each in (0.5, 2.0))
MEASURED = {("transfer", "scalearn"): LIGHT, ("transfer", "adapterfusion"): HEAVY}


def light_and_heavy(heavy_first: bool) -> Graph:
    """Jobs of half a gigabyte and of two; one of either kind is the longest."""
    top = source("s0")
    heavy = [make_job("transfer", "adapterfusion", "t0", seed, (top,)) for seed in range(8 if not heavy_first else 1)]
    light = [transfer("t0", [top], seed) for seed in range(30 if heavy_first else 1)]
    graph = Graph([*heavy, *light])
    graph.mark(top.node, "cached")
    return graph


@pytest.mark.parametrize(("heavy_first", "jobs"), [(True, 1 + 28), (False, 1 + 7)])
def test_pack_of_unlike_jobs_fills_the_memory_and_no_more(heavy_first, jobs):
    graph = light_and_heavy(heavy_first)
    profile = with_pace(adapterfusion=100, scalearn=100, longest="adapterfusion" if heavy_first else "scalearn")
    pack = Policy(graph, CostModel(profile, memory_share=0.9, measured=MEASURED)).take()
    taken = sum((HEAVY if "adapterfusion" in node else LIGHT).per_job for node in pack)
    assert 16 * GIGABYTE - HEAVY.per_job < taken <= 16 * GIGABYTE  # 0.9 of 20, without the backbone and the sources
    assert len(pack) == jobs


def with_pace(longest, **most):
    """The profile with packs of so many jobs, and one method that takes longest."""
    (rates,) = PROFILE.rates
    train = {
        name: replace(pace, largest_pack=most.get(name, 1), per_token=1e-5 * (1 + (name == longest))) for name, pace in rates.train.items()
    }
    return replace(PROFILE, rates=(replace(rates, train=train),))


def test_every_other_set_of_sources_takes_its_memory():
    own = [replace(source("t0"), config=replace(source("t0").config, seed=seed)) for seed in range(4)]
    jobs = [transfer("t0", [parent], seed) for parent in own for seed in range(6)]
    graph = Graph(jobs)
    for parent in own:
        graph.mark(parent.node, "cached")
    cost = CostModel(with_pace("scalearn", scalearn=100), measured={("transfer", "scalearn"): replace(LIGHT, per_stack=5 * GIGABYTE)})
    pack = Policy(graph, cost).take()
    assert len({graph.parents(node) for node in pack}) == 2
    assert len(pack) == 6 + 6
    stacks = [graph.parents(node) for node in pack]
    assert sum(before != after for before, after in itertools.pairwise(stacks)) == 1  # neighbours share their sources


def test_first_stage_packs_across_tasks_of_like_length():
    assert pack_key(source("s0")) == pack_key(source("s1", seed=3))
    assert length_class(100) == length_class(110)
    assert length_class(64) < length_class(128)


def test_methods_that_own_their_backbone_share_no_pack():
    full = [make_job("single", "full_ft", "s0", seed) for seed in range(2)]
    assert pack_key(full[0]) != pack_key(full[1])
    assert drain(Policy(Graph(full), make_cost(pack=8))) == [(full[0].node,), (full[1].node,)]


def test_first_come_takes_jobs_in_their_order_and_spreads_them():
    jobs = [with_epochs(source("s0", seed), seed + 1) for seed in range(4)]
    policy = FirstCome(Graph(jobs), make_cost(pack=2), slots=2)
    assert [policy.take(idle) for idle in (2, 1)] == [(jobs[0].node, jobs[1].node), (jobs[2].node, jobs[3].node)]
    assert policy.take() == ()
    assert drain(FirstCome(Graph(jobs), make_cost(pack=2), slots=4), idle=4) == [(job.node,) for job in jobs]


@st.composite
def graphs(draw):
    """Two stages of random shape and random durations, some of it done before."""
    sources = [with_epochs(source(f"s{n}"), draw(st.integers(1, 30))) for n in range(draw(st.integers(1, 5)))]
    targets = []
    for number in range(draw(st.integers(0, 12))):
        parents = draw(st.lists(st.sampled_from(sources), min_size=1, max_size=3, unique=True))
        targets.append(with_epochs(transfer(f"t{number % 3}", parents, number), draw(st.integers(1, 30))))
    graph = Graph([*sources, *targets])
    for job in sources:
        if draw(st.booleans()):
            graph.mark(job.node, "cached")
    return graph


@settings(deadline=None)
@given(graphs(), st.integers(1, 6), st.integers(1, 8))
def test_every_job_is_handed_out_once_after_its_parents_in_packs_of_one_kind(graph, slots, pack):
    policy, running, seen = Policy(graph, make_cost(pack=pack), slots), [], []
    wanted = {node for node, state in graph.states.items() if state == "pending"}
    while True:
        while len(running) < slots and (taken := policy.take(slots - len(running), now=0.0)):
            assert len(taken) <= pack
            assert len({pack_key(graph.job(node)) for node in taken}) == 1
            assert all(graph.states[parent] in ("cached", "succeeded") for node in taken for parent in graph.parents(node))
            for node in taken:
                graph.mark(node, "running")
            running.append(taken)
            seen += taken
        if not running:
            break
        ended = running.pop(0)
        policy.ended(ended)
        for node in ended:
            graph.mark(node, "succeeded")
            policy.succeeded(node)
    assert len(seen) == len(set(seen))
    assert set(seen) == wanted
    assert len(policy) == 0
    assert policy.horizon() == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(graphs())
def test_path_of_a_job_is_longer_than_that_of_anything_that_needs_it(graph):
    cost = make_cost()
    paths = remaining_paths(graph, {job.node: cost.estimate(job) for job in graph})
    for job in graph:
        for child in graph.children(job.node):
            assert paths[job.node] > paths[child]


def test_jobs_of_a_grown_graph_are_queued_and_packed_with_those_that_wait():
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(2)])
    graph.mark(top.node, "cached")
    policy = Policy(graph, make_cost(pack=4))
    before = policy.horizon()
    graph.extend([transfer("t0", [top], seed) for seed in range(2, 4)])
    policy.grown()
    assert len(policy) == 4
    assert policy.horizon() > before
    (pack,) = drain(policy)
    assert set(pack) == {job.node for job in graph if job.config.stage == "transfer"}
    policy.grown()
    assert drain(policy) == []
