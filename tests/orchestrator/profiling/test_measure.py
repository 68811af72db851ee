"""The line through measured packs, what is measured in little time, and one real measurement."""

import dataclasses

import pytest

from orchestrator import cli
from orchestrator.commands.profile import print_profile
from orchestrator.definition.graph import Job
from orchestrator.profiling import measure
from orchestrator.profiling.deadline import Deadline, Extent, Taken, take
from orchestrator.profiling.fit import MeasuredPack, fit_pace
from orchestrator.profiling.measure import measure_profile
from orchestrator.profiling.profile import Pace, Rates, from_json, load_profile, to_json
from orchestrator.scheduling.cost import CostModel
from tests.orchestrator.helpers.doubles import source, transfer


def twice_as_long(job: Job) -> Job:
    optimisation = dataclasses.replace(job.config.optimisation, epochs=2 * job.config.optimisation.epochs)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, optimisation=optimisation))


def points(fixed: float, per_job: float, per_token: float) -> list[MeasuredPack]:
    shapes = [(1, 64), (1, 128), (4, 64), (16, 64)]
    return [MeasuredPack(jobs, 32, length, fixed + per_job * jobs + per_token * jobs * 32 * length, 1.0, 0.1) for jobs, length in shapes]


@pytest.mark.parametrize(("fixed", "per_job", "per_token"), [(0.02, 0.004, 3e-6), (0.0, 0.01, 3e-4), (0.5, 0.0, 1e-5)])
def test_line_is_found_again(fixed, per_job, per_token):
    pace = fit_pace(points(fixed, per_job, per_token))
    assert (pace.fixed, pace.per_job, pace.per_token) == pytest.approx((fixed, per_job, per_token), abs=1e-6)


def test_large_packs_pay_where_much_is_fixed_and_not_where_tokens_are_all():
    assert fit_pace(points(0.1, 0.001, 1e-6)).largest_pack == 16
    assert fit_pace(points(0.0, 0.001, 1e-3)).largest_pack == 1


def test_no_part_of_the_line_is_negative_where_large_packs_are_slower():
    slower = [
        MeasuredPack(1, 32, 64, 0.1, 1.0, 0.1),
        MeasuredPack(1, 32, 128, 0.2, 1.0, 0.1),
        MeasuredPack(4, 32, 64, 0.6, 1.0, 0.1),
    ]
    pace = fit_pace(slower)
    assert min(pace.fixed, pace.per_job) >= 0
    assert pace.per_token > 0
    assert pace.largest_pack == 1


EXTENT = Extent(lengths=(32, 128), packs=(1, 2, 4), methods=("adapter", "scalearn", "adapterfusion"), steps=2, rounds=2)
SHAPES = {(1, 32), (1, 128), (2, 32), (4, 32)}


class Device:
    """A device with a clock of its own: a step takes a hundredth of a second per token of a row, and two seconds lie around each pack."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, method: str, jobs: int, length: int, steps: int) -> MeasuredPack:
        self.now += 2.0 + steps * jobs * length * 0.01
        return MeasuredPack(jobs, 32, length, jobs * length * 0.01, 1.0, 0.1)

    def take(self, seconds: float) -> Taken[MeasuredPack]:
        return take(self.run, EXTENT, Deadline(seconds, lambda: self.now))


def test_with_time_every_shape_of_every_method_is_measured_in_every_round():
    taken = Device().take(1000)
    assert taken.left_out == ()
    shapes = {method: {(times[0].jobs, times[0].length) for times in found} for method, found in taken.points.items()}
    assert shapes == dict.fromkeys(EXTENT.methods, SHAPES)
    assert {len(times) for found in taken.points.values() for times in found} == {2}


@pytest.mark.parametrize("seconds", range(10, 100, 3))
def test_measurements_end_before_the_deadline(seconds):
    device = Device()
    taken = device.take(seconds)
    assert device.now <= seconds
    assert taken.left_out


@pytest.mark.parametrize(
    ("seconds", "left_out"),
    [
        (30, ("1 of 2 steps a pack", "adapterfusion", "8 repetitions")),
        (52, ("packs of 4 of adapterfusion", "11 repetitions")),
        (80, ("5 repetitions",)),
    ],
)
def test_what_tells_least_is_left_out_and_named(seconds, left_out):
    assert Device().take(seconds).left_out == left_out


def test_without_time_a_profile_has_what_it_needs_and_says_what_it_lacks():
    device = Device()
    taken = device.take(0)
    assert {method: [len(times) for times in found] for method, found in taken.points.items()} == {"adapter": [1, 1], "scalearn": [1, 1]}
    assert all(fit_pace([times[0] for times in found]).per_token > 0 for found in taken.points.values())
    assert taken.left_out[:2] == ("1 of 2 steps a pack", "128 tokens (64 in their place)")
    assert "adapterfusion" in taken.left_out
    assert device.now < 12


def test_what_one_backbone_does_not_use_is_left_to_the_others():
    device = Device()
    whole = Deadline(90, lambda: device.now)
    assert whole.share(3).left() == 30
    device.now = 10.0
    assert whole.share(2).left() == 40
    device.now = 95.0
    assert whole.share(1).left() == 0


def test_backbones_and_precisions_of_one_call_share_the_time_and_the_file(monkeypatch, tmp_path, capsys):
    shares = []

    def rates(bench, device, extent, deadline):
        shares.append(deadline)
        pace = {"adapter": Pace(0.1, 0.01, 1e-6), "scalearn": Pace(0.1, 0.01, 1e-6)}
        left_out = ("adapterfusion",) if bench.precision == "fp32" else ()
        return Rates(bench.backbone.name, bench.precision, 0.1, 0.1, 1e5, 1e8, pace, pace), left_out

    monkeypatch.setattr(measure, "measure_rates", rates)
    monkeypatch.setattr(measure, "_worker_seconds", lambda: 1.0)
    monkeypatch.setattr(measure, "resolve_precision", lambda precision, device: "bf16" if precision == "auto" else precision)
    flags = [f"--precision={name}" for name in ("bf16", "fp32", "auto")] + ["--backbone=minilm", "--seconds=500", "--device=cpu"]
    assert cli.main(["profile", *flags, "--out", str(tmp_path / "mine.json")]) == 0
    kept = load_profile(str(tmp_path / "mine.json"))
    assert [(found.backbone, found.precision) for found in kept.rates] == [("minilm", "auto"), ("minilm", "fp32")]
    assert len(shares) == 2
    assert "no time in 500 s for minilm in fp32: adapterfusion" in kept.note
    assert kept.note in capsys.readouterr().out


@pytest.mark.slow
def test_quick_measurement_gives_a_profile_that_plans(capsys):
    from rich.console import Console

    profile = measure_profile(["minilm"], ["fp32"], device="cpu", threads=1, quick=True)
    assert profile.measured
    assert from_json(to_json(profile)) == profile
    (rates,) = profile.rates
    assert rates.bytes_per_token > 10_000
    cost = CostModel(profile)
    parents = [source(f"s{number}") for number in range(3)]
    # How long it takes is the machine's affair; that it grows with the steps is the profile's.
    assert 0 < cost.estimate(parents[0]).seconds < cost.estimate(twice_as_long(parents[0])).seconds
    assert cost.estimate(transfer("t", parents)).seconds > 0
    print_profile(profile, Console(width=200))
    assert "tokens/s" in capsys.readouterr().out
