"""What jobs are expected to cost, and the profiles behind it."""

import dataclasses
import json

import pytest

from orchestrator.definition.sweep import Sweep, shipped_sweeps
from orchestrator.profiling.profile import from_json, load_profile, profile_names, to_json
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.task_sizes import SIZES, size_of
from scalearn.config import DataConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.tasks import benchmark_names, benchmark_tasks
from tests.orchestrator.helpers.doubles import make_job, source, transfer

ESTIMATE = load_profile("h100_estimate")


def changed(job, **optimisation):
    config = dataclasses.replace(job.config, optimisation=dataclasses.replace(job.config.optimisation, **optimisation))
    return dataclasses.replace(job, config=config)


def on(job, **data):
    return dataclasses.replace(job, config=dataclasses.replace(job.config, data=(dataclasses.replace(job.config.data[0], **data),)))


@pytest.fixture
def cost():
    return CostModel(ESTIMATE)


def test_every_registered_task_has_a_size():
    assert {task for name in benchmark_names() for task in benchmark_tasks(name)} == set(SIZES)


@pytest.mark.parametrize(
    ("changes", "train", "validation", "test"),
    [
        ({}, 353_431, 39_271, 19_647),
        ({"train_rows": 960, "evaluation_rows": 300}, 960, 300, 600),
        ({"few_shot": 16}, 16, 5_000, 9_815 + 5_000),  # the matched split is whole, the mismatched one is not
        ({"train_share": 0.1}, 35_343, 3_927, 19_647),
    ],
)
def test_size_is_cut_as_the_data_block_says(changes, train, validation, test):
    size = size_of(DataConfig("glue/mnli", "hub", **changes))
    assert (size.train, size.validation, size.test) == (train, validation, test)


def test_length_never_exceeds_the_maximum():
    size = size_of(DataConfig("super_glue/boolq", "hub", max_length=60))
    assert size.length == 60
    assert size.padded == 64


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(30, None, 120), (2, None, 8), (30, 50, 50), (30, 500, 120)],
)
def test_steps_follow_epochs_and_their_cap(cost, epochs, max_steps, steps):
    assert cost.estimate(changed(source("s"), epochs=epochs, max_steps=max_steps)).steps == steps


def test_job_takes_longer_with_more_steps_longer_rows_a_deeper_backbone_and_more_sources(cost):
    seconds = cost.estimate(source("s")).seconds
    assert cost.estimate(changed(source("s"), epochs=60)).seconds > seconds
    assert cost.estimate(on(source("s"), max_length=256)).seconds > seconds
    larger = dataclasses.replace(source("s"), config=dataclasses.replace(source("s").config, backbone="roberta-large"))
    assert cost.estimate(larger).seconds > seconds
    few, many = ([source(f"s{n}") for n in range(count)] for count in (2, 12))
    assert cost.estimate(transfer("t", many)).seconds > cost.estimate(transfer("t", few)).seconds


def test_pack_takes_longer_than_any_member_and_less_than_all_in_turn(cost):
    members = [cost.estimate(changed(source("s", seed), epochs=epochs)) for seed, epochs in enumerate((3, 30, 12))]
    together = cost.seconds(members)
    assert max(member.seconds for member in members) < together < sum(member.seconds for member in members)
    assert cost.seconds(members[:1]) == members[0].seconds
    assert cost.seconds(members) == cost.seconds(members[::-1])


def test_pack_fits_the_memory_and_its_share(cost):
    tight = dataclasses.replace(ESTIMATE, memory_bytes=20e9)
    job = on(source("s"), max_length=512, task="mine/own")
    assert 1 <= CostModel(tight).estimate(job).largest_pack < cost.estimate(job).largest_pack
    assert CostModel(tight, memory_share=0.45).estimate(job).largest_pack < CostModel(tight).estimate(job).largest_pack
    assert CostModel(tight, pack=100).estimate(source("s")).largest_pack <= 100
    assert CostModel(ESTIMATE, pack=1).estimate(source("s")).largest_pack == 1


def test_rows_grouped_by_length_have_less_padding(cost):
    job = on(source("s"), task="glue/mnli", train_rows=None)
    assert cost.estimate(changed(job, group_by_length=True)).seconds < cost.estimate(job).seconds


def test_job_that_owns_its_backbone_is_never_packed(cost):
    assert cost.estimate(make_job("single", "full_ft", "s")).largest_pack == 1


def test_precision_auto_is_that_of_the_device(cost):
    auto, named = (cost.estimate(changed(source("s"), precision=name)).seconds for name in ("auto", "bf16"))
    assert auto == named


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profile_is_valid_and_estimates_every_shipped_sweep(name):
    profile = load_profile(name)
    assert from_json(json.loads(json.dumps(to_json(profile)))) == profile
    cost = CostModel(profile)
    for sweep in shipped_sweeps():
        if (loaded := Sweep.load(sweep)).data.root is None:
            assert all(cost.estimate(job).seconds > 0 for job in loaded.expand())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 9}', "damaged"),
        (json.dumps({**to_json(ESTIMATE), "rates": []}), "damaged"),
        (json.dumps({**to_json(ESTIMATE), "surprise": 1}), "damaged"),
    ],
)
def test_damaged_profile_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        load_profile(str(path))


def test_unknown_profile_names_the_nearest():
    with pytest.raises(UserError, match="h100_estimate"):
        load_profile("h100_estimat")
    with pytest.raises(UserError, match="cannot be read"):
        load_profile("absent/file.json")


def test_optimisation_without_epochs_cap_counts_all_epochs(cost):
    patient = changed(source("s"), patience=None)
    assert cost.estimate(patient).steps == cost.estimate(source("s")).steps
    assert OptimisationConfig(1e-3).epochs == 30
