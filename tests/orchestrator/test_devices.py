"""What devices hold: measured, remembered, and obeyed."""

import dataclasses

import pytest

from orchestrator.definition.graph import Graph
from orchestrator.execution.devices import Memory, probe, probe_job, recall, recall_fitting, remember, remember_fitting, with_memory
from orchestrator.planning.cost import CostModel
from orchestrator.planning.packing import Policy
from orchestrator.planning.profile import load_profile
from orchestrator.storage.store import Store
from scalearn.methods.registry import get_method
from tests.orchestrator.doubles import make_job, source, transfer, two_stages


def test_dry_step_measures_what_the_backward_pass_keeps():
    config = dataclasses.replace(source("s0").config, settings=get_method("adapter").settings)
    short, long = (probe(config, length, "cpu") for length in (16, 64))
    layers, hidden = 6, 384
    # At least the input of each of a layer's six maps is kept, and attention's share grows with the length.
    assert short.per_token > layers * 6 * hidden
    assert short.per_token < long.per_token < 4 * short.per_token
    assert 80e6 < short.weights < 100e6


def test_packs_fit_the_measured_device():
    cost = CostModel(load_profile("h100_estimate"))
    job = source("s0")
    estimate = cost.estimate(job)
    tokens = estimate.rows * estimate.padded
    memory = Memory("small GPU", total=1e9 + 5.5 * tokens * 1000 / 0.9, weights=0.9e9, per_token=1000.0)
    plain = dataclasses.replace(cost.profile, rates=(dataclasses.replace(cost.profile.rates[0], backbone="minilm"),))
    assert with_memory(cost.on(plain), memory).estimate(job).largest_pack == 5
    assert with_memory(cost.on(plain), memory, share=0.95).estimate(job).largest_pack < 5


def test_longest_adapter_job_is_the_one_to_measure_with():
    long = make_job("source", "adapter", "long")
    long = dataclasses.replace(
        long, config=dataclasses.replace(long.config, data=(dataclasses.replace(long.config.data[0], max_length=256),))
    )
    config, length = probe_job(Graph([source("s0"), long]))
    assert (config, length) == (long.config, 256)
    assert probe_job(Graph([make_job("single", "full_ft", "s0")])) is None


def test_measurement_and_what_did_not_fit_are_kept_in_the_store(tmp_path):
    store, config = Store(tmp_path), source("s0").config
    assert recall(store, config) is None
    assert recall_fitting(store) == {}
    memory = Memory("GPU", 1e9, 1e8, 1e5)
    remember(store, config, memory)
    remember_fitting(store, {("package:m==1", "auto"): 2048.0})
    assert recall(store, config) == memory
    assert recall_fitting(store) == {("package:m==1", "auto"): 2048.0}
    (tmp_path / ".cache/devices.json").write_text('{"a|b": {"memory": {"surprise": 1}}, "c": 3')
    assert recall(store, config) is None


@pytest.mark.parametrize("passes", [2, 4])
def test_pack_that_did_not_fit_makes_the_next_ones_smaller(passes):
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(24)])
    graph.mark(top.node, "cached")
    cost = CostModel(load_profile("h100_estimate"), pack=8)
    policy = Policy(graph, cost)
    first = policy.take()
    assert len(first) == 8
    policy.ended(first)
    policy.did_not_fit(first, passes)
    assert len(policy.take()) == 8 // passes
    later = Policy(two_stages(), cost)
    later.expect(policy.fitting())
    assert later.fitting() == policy.fitting()
