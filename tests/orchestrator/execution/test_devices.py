"""What devices hold: measured, remembered, and obeyed."""

import dataclasses
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import RaySystemError

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.execution import devices
from orchestrator.execution.devices import measure_memory, probe, recall, recall_fitting, remember, remember_fitting, samples
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel, Memory
from orchestrator.scheduling.memory_load import DOUBT_SECONDS, Limit
from orchestrator.scheduling.policy import Policy
from scalearn.config import SelectConfig
from scalearn.methods.registry import get_method
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import make_job, source, transfer, two_stages

ADAPTER = ("source", "adapter")
ON_CPU = Runtime(device="cpu")


def with_length(job, length):
    return dataclasses.replace(
        job, config=dataclasses.replace(job.config, data=(dataclasses.replace(job.config.data[0], max_length=length),))
    )


def test_dry_steps_measure_what_passes_and_jobs_hold():
    tops = [source(f"s{number}") for number in range(8)]
    methods = ("adapter", "scalearn", "adapterfusion")
    jobs = [source("s0"), make_job("transfer", "scalearn", "t", 0, tops), make_job("transfer", "adapterfusion", "t", 0, tops)]
    jobs = [
        dataclasses.replace(job, config=dataclasses.replace(job.config, settings=get_method(job.config.method).settings)) for job in jobs
    ]
    short, long = (probe(samples(with_length(job, length) for job in jobs), {}, ON_CPU) for length in (16, 64))
    adapter, scalearn, fusion = ({job.config.method: short[job.config.stage, job.config.method] for job in jobs}[name] for name in methods)
    layers, hidden = 6, 384
    # At least the input of each of a layer's six maps is kept, and attention's share grows with the length.
    assert adapter.per_token > layers * 6 * hidden
    assert adapter.per_token < long[ADAPTER].per_token < 4 * adapter.per_token
    assert 80e6 < adapter.fixed < 100e6
    assert scalearn.fixed == fusion.fixed == adapter.fixed
    assert adapter.per_stack == 0
    matrices = 8 * layers * 2 * hidden * (hidden // 16) * 4
    assert matrices < scalearn.per_stack == fusion.per_stack < 1.1 * matrices
    assert fusion.per_token > adapter.per_token
    # Query, key and value of every layer: weight, gradient, two moments and the best.
    assert fusion.per_job >= 5 * 4 * layers * 3 * hidden**2
    assert scalearn.per_job == 5 * 4 * layers * 8 * hidden


def test_job_that_selects_is_measured_with_as_many_sources_as_it_will_stack():
    job = make_job("transfer", "scalearn_fixed", "t", 0, [source(f"s{number}") for number in range(5)])
    config = dataclasses.replace(job.config, select=SelectConfig("logme", 2), settings={"omega": (0.5, 0.5)})
    wanted = samples([dataclasses.replace(job, config=config)])
    (sample,) = wanted.values()
    assert (len(sample.config.sources), sample.config.select) == (2, None)
    assert probe(wanted, {}, ON_CPU)["transfer", "scalearn_fixed"].per_token == 0  # only a head learns, so no pass is kept


@pytest.mark.parametrize("backbone", ["minilm", "roberta-base", "roberta-large"])
@pytest.mark.parametrize("profile", ["h100_estimate", "epyc_2_cores"])
def test_packs_fit_the_measured_device_whichever_backbones_the_profile_knows(profile, backbone):
    cost = CostModel(load_profile(profile), pack=100)
    job = source("s0")
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, backbone=backbone))
    estimate = cost.estimate(job)
    each = estimate.rows * job.config.data[0].max_length * 1000.0 + 1e6
    memory = Memory("small GPU", total=(0.9e9 + 5.5 * each) / 0.9, fixed=0.9e9, per_token=1000.0, per_job=1e6)
    assert cost.with_memory({ADAPTER: memory}).estimate(job).largest_pack == 5
    assert cost.with_memory({ADAPTER: dataclasses.replace(memory, per_job=1e6 + each)}).estimate(job).largest_pack == 2
    assert cost.with_memory({("transfer", "scalearn"): memory}).estimate(job).largest_pack == estimate.largest_pack


def test_longest_job_of_every_method_that_can_be_packed_is_the_one_to_measure_with():
    long = with_length(make_job("source", "adapter", "long"), 256)
    top = source("s0")
    few, many = transfer("t0", [top]), transfer("t1", [top, source("s1")])
    found = samples([top, long, few, many, make_job("single", "full_ft", "s0")])
    assert {key: sample.config for key, sample in found.items()} == {ADAPTER: long.config, ("transfer", "scalearn"): many.config}
    assert found[ADAPTER].length == 256


@pytest.mark.parametrize("factors", [(16, 2), (2, 16)])
def test_widest_job_and_widest_sources_are_the_ones_to_measure_with(factors):
    def with_factor(job, factor):
        return dataclasses.replace(job, config=dataclasses.replace(job.config, settings={"reduction_factor": factor}))

    tops = [with_factor(source("s0"), factor) for factor in factors]
    targets = [transfer("t0", [top]) for top in tops]
    found = samples([*tops, *targets])
    assert found[ADAPTER].config.settings["reduction_factor"] == 2
    assert found["transfer", "scalearn"].source_settings["reduction_factor"] == 2
    assert len({sample.name(ON_CPU) for sample in (found[ADAPTER], samples(tops[:1])[ADAPTER], samples(tops[1:])[ADAPTER])}) == 2


def test_measurements_and_what_did_not_fit_are_kept_in_the_store_by_device(tmp_path):
    store, config = Store(tmp_path), source("s0").config
    assert recall(store, config) == {}
    assert recall_fitting(store, 0.0) == {}
    large, small = Memory("H100", 80e9, 1e8, 1e5, 1e6), Memory("L4", 24e9, 1e8, 1e5, 1e6)
    kind = ("H100", config.backbone_origin, "auto")
    remember_fitting(store, kind, 2048.0)
    remember(store, config, {"adapter": large})
    remember(store, config, {"scalearn": large})
    remember(store, config, {"adapter": small})
    assert recall(store, config) == {"H100": {"adapter": large, "scalearn": large}, "L4": {"adapter": small}}
    assert recall_fitting(store, 100.0) == {kind: Limit(2048.0, pytest.approx(100.0 + DOUBT_SECONDS, abs=60))}
    (tmp_path / ".cache/devices.json").write_text(
        '{"G|package:m==1|auto": {"memory": {"a": {"surprise": 1}}}, "a|b": {"fitting_tokens": 3}, "c": 3}'
    )
    assert recall(store, config) == {}
    assert recall_fitting(store, 0.0) == {}


def test_what_did_not_fit_is_in_the_store_at_once_and_forgotten_after_a_day(tmp_path, monkeypatch):
    store, top = Store(tmp_path), source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(40)])
    graph.mark(top.node, "cached")
    cost = CostModel(load_profile("h100_estimate"), pack=8)
    policy = Policy(graph, cost, device=lambda job: "H100", learned=lambda kind, tokens: remember_fitting(store, kind, tokens))
    policy.did_not_fit(policy.take(), 2, now=10.0)
    assert len(policy.take(now=11.0)) == 4
    assert len(policy.take(now=10.0 + DOUBT_SECONDS)) == 8
    later = Policy(graph, cost, device=lambda job: "H100")
    later.expect(recall_fitting(store, 0.0))
    assert len(later.take(now=1.0)) == 4
    after = time.time() + DOUBT_SECONDS
    monkeypatch.setattr(devices, "time", SimpleNamespace(time=lambda: after))
    assert recall_fitting(store, 0.0) == {}


def test_device_that_is_known_is_not_measured_again():
    wanted = samples([source("s0")])
    memory = Memory("CPU", 1e9, 1e8, 1e5, 1e6)
    assert probe(wanted, {"CPU": {wanted[ADAPTER].name(ON_CPU): memory}}, ON_CPU) == {ADAPTER: memory}


def test_recomputed_activations_take_less_and_are_measured_apart():
    job = source("s0")
    wanted = samples([dataclasses.replace(job, config=dataclasses.replace(job.config, settings=get_method("adapter").settings))])
    recomputed = dataclasses.replace(ON_CPU, gradient_checkpointing=True)
    kept = probe(wanted, {}, ON_CPU)
    less = probe(wanted, {"CPU": {wanted[ADAPTER].name(ON_CPU): kept[ADAPTER]}}, recomputed)
    assert less[ADAPTER].per_token < kept[ADAPTER].per_token / 3


class Workers:
    """Stands for Ray with workers whose GPU is given."""

    def __init__(self, monkeypatch, answer):
        self.placed, self.cancelled = [], []
        monkeypatch.setattr(
            devices, "ray", SimpleNamespace(remote=self._remote, get=lambda answer, timeout: answer(), cancel=self.cancelled.append)
        )
        self._answer = answer

    def _remote(self, **resources):
        self.placed.append(resources)
        return lambda function: SimpleNamespace(remote=lambda wanted, known, runtime: lambda: self._answer(wanted))


SHAPES = {
    "source": {"CPU": 1.0},
    "transfer": {"CPU": 2.0, "GPU": 0.25, "fast": 1.0, "accelerator_type:L4": 0.001},
}


def measured_by(workers_answer, monkeypatch, tmp_path):
    workers = Workers(monkeypatch, workers_answer)
    graph = two_stages()

    def shape(job):
        return SHAPES[job.config.stage]

    found = measure_memory(graph, Store(tmp_path), CostModel(load_profile("h100_estimate")), Runtime(), shape, lambda job: job.config.stage)
    return workers, graph, found


def test_every_placement_with_a_gpu_is_measured_where_its_trials_run_and_gets_its_part(monkeypatch, tmp_path):
    memory = Memory("NVIDIA L4", 24e9, 1e8, 1e5, 1e6)
    workers, graph, found = measured_by(lambda wanted: dict.fromkeys(wanted, memory), monkeypatch, tmp_path)
    assert workers.placed == [{"num_cpus": 2.0, "num_gpus": 0.25, "resources": {"fast": 1.0, "accelerator_type:L4": 0.001}}]
    assert found.names == {"source": "CPU", "transfer": "0.25 NVIDIA L4"}
    (kept,) = recall(Store(tmp_path), next(iter(graph)).config)["NVIDIA L4"].values()
    assert kept == memory
    target = next(job for job in graph if job.config.stage == "transfer")
    quarter = CostModel(load_profile("h100_estimate"), measured={("transfer", "scalearn"): dataclasses.replace(memory, total=6e9)})
    assert found.cost.estimate(target).largest_pack == quarter.estimate(target).largest_pack < 24


def test_gpu_that_cannot_be_measured_is_planned_by_the_profile(monkeypatch, tmp_path):
    def fails(wanted):
        raise RaySystemError("the worker died")

    workers, graph, found = measured_by(fails, monkeypatch, tmp_path)
    assert len(workers.cancelled) == 1
    target = next(job for job in graph if job.config.stage == "transfer")
    assert found.cost.estimate(target) == CostModel(load_profile("h100_estimate")).estimate(target)
    assert found.names["transfer"] == "0.25 L4"


@pytest.mark.parametrize("passes", [2, 4])
def test_pack_that_did_not_fit_makes_the_next_ones_smaller(passes):
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(24)])
    graph.mark(top.node, "cached")
    cost = CostModel(load_profile("h100_estimate"), pack=8)
    learned = {}
    policy = Policy(graph, cost, learned=learned.__setitem__)
    first = policy.take()
    assert len(first) == 8
    policy.ended(first)
    policy.did_not_fit(first, passes)
    assert len(policy.take()) == 8 // passes
    assert len(learned) == 1


def test_job_that_did_not_fit_alone_leaves_packs_as_they_are():
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(9)])
    graph.mark(top.node, "cached")
    policy = Policy(graph, CostModel(load_profile("h100_estimate"), pack=4))
    policy.did_not_fit(policy.take()[:1], 2)
    assert len(policy.take()) == 4


def test_what_did_not_fit_one_device_says_nothing_about_another():
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(24)])
    graph.mark(top.node, "cached")
    learned = {}
    small, large = (
        Policy(graph, CostModel(load_profile("h100_estimate"), pack=8), device=lambda job, name=name: name, learned=learned.__setitem__)
        for name in ("L4", "H100")
    )
    small.did_not_fit(small.take(), 2)
    large.expect({kind: Limit(tokens, 1.0) for kind, tokens in learned.items()})
    assert len(small.take()) == 4
    assert len(large.take()) == 8
