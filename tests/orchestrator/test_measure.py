"""The line through measured packs, and one real measurement."""

import pytest

from orchestrator.commands.profile import print_profile
from orchestrator.planning.cost import CostModel
from orchestrator.planning.measure import Point, fit_pace, measure_profile
from orchestrator.planning.profile import from_json, to_json
from tests.orchestrator.doubles import source, transfer


def points(fixed: float, per_job: float, per_token: float) -> list[Point]:
    shapes = [(1, 64), (1, 128), (4, 64), (16, 64)]
    return [Point(jobs, 32, length, fixed + per_job * jobs + per_token * jobs * 32 * length, 1.0, 0.1) for jobs, length in shapes]


@pytest.mark.parametrize(("fixed", "per_job", "per_token"), [(0.02, 0.004, 3e-6), (0.0, 0.01, 3e-4), (0.5, 0.0, 1e-5)])
def test_line_is_found_again(fixed, per_job, per_token):
    pace = fit_pace(points(fixed, per_job, per_token))
    assert (pace.fixed, pace.per_job, pace.per_token) == pytest.approx((fixed, per_job, per_token), abs=1e-6)


def test_large_packs_pay_where_much_is_fixed_and_not_where_tokens_are_all():
    assert fit_pace(points(0.1, 0.001, 1e-6)).largest_pack == 16
    assert fit_pace(points(0.0, 0.001, 1e-3)).largest_pack == 1


def test_no_part_of_the_line_is_negative_where_large_packs_are_slower():
    slower = [Point(1, 32, 64, 0.1, 1.0, 0.1), Point(1, 32, 128, 0.2, 1.0, 0.1), Point(4, 32, 64, 0.6, 1.0, 0.1)]
    pace = fit_pace(slower)
    assert min(pace.fixed, pace.per_job) >= 0
    assert pace.per_token > 0
    assert pace.largest_pack == 1


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
    assert 1 < cost.estimate(parents[0]).seconds < 1000
    assert cost.estimate(transfer("t", parents)).seconds > 0
    print_profile(profile, Console(width=200))
    assert "tokens/s" in capsys.readouterr().out
