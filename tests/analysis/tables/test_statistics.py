"""Each number is worked out by hand in a comment or taken from the table that is named."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest

from analysis.tables.benchmark import BenchmarkTable, Cell, Row
from analysis.tables.statistics import critical_difference, differences, holm, ranks, superiority, win_tie_loss

Scores = Mapping[str, Sequence[Sequence[float]]]


def table(scores: Scores, seeds: Mapping[str, Sequence[int]] | None = None) -> BenchmarkTable:
    """Method -> per target the scores of seeds 0, 1, ... (or of the named seeds)."""
    count = len(next(iter(scores.values())))
    targets = tuple(f"b/t{index}" for index in range(count))
    rows = []
    for method, columns in scores.items():
        numbers = (seeds or {}).get(method)
        cells = tuple(
            Cell(target, scores=tuple(zip(numbers or range(len(values)), values, strict=False)))
            for target, values in zip(targets, columns, strict=True)
        )
        rows.append(Row(method, method, "two_stage", "", cells))
    return BenchmarkTable("", targets, targets, ("accuracy",) * count, tuple(rows), "validation", "test", "b", (), ())


def one(frame: pd.DataFrame, **where: str) -> "pd.Series[float]":
    for column, value in where.items():
        frame = frame[frame[column] == value]
    (row,) = [row for _, row in frame.iterrows()]
    return row


def test_holm_worked_example() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1 gives .04, .06, .06, .04, and the running maximum .04, .06, .06, .06.
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_differences_paired_seeds_worked_example() -> None:
    # Differences .02, .04, .06: mean .04, standard deviation .02, t = .04 / (.02 / sqrt 3) = 3.4641; two-sided p with 2 degrees of
    # freedom is 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / 3.7417 = 0.0742.
    found = one(differences(table({"a": [[0.52, 0.64, 0.76]], "b": [[0.5, 0.6, 0.7]]})), target="b/t0")
    assert found["difference"] == pytest.approx(0.04)
    assert found["p"] == pytest.approx(1 - math.sqrt(12) / math.sqrt(14), abs=1e-6)
    assert found["n"] == 3
    assert found["paired"]
    # A resample of three has mean .02 with probability 1/27 = 3.7 % > 2.5 %: the percentile interval ends at the extremes.
    assert (found["low"], found["high"]) == (pytest.approx(0.02), pytest.approx(0.06))


def test_differences_are_paired_by_seed_and_not_by_position() -> None:
    both = table({"a": [[0.5, 0.6, 0.7]], "b": [[0.6, 0.5, 0.65]]}, seeds={"a": (0, 1, 2), "b": (1, 0, 2)})
    found = one(differences(both), target="b/t0")
    # Seed by seed .5 - .5, .6 - .6, .7 - .65.
    assert found["difference"] == pytest.approx(0.05 / 3)
    assert (found["low"], found["high"]) == (pytest.approx(0.0), pytest.approx(0.05))


def test_differences_without_common_seeds_are_two_samples() -> None:
    found = one(differences(table({"a": [[0.8, 0.9]], "b": [[0.5, 0.6]]}, seeds={"a": (0, 1), "b": (2, 3)})), target="b/t0")
    # Welch: t = .3 / sqrt(.005 / 2 + .005 / 2) = 4.2426 with 2 degrees of freedom: p = 1 - 4.2426 / sqrt(20) = 0.0513.
    assert not found["paired"]
    assert found["p"] == pytest.approx(1 - 3 / math.sqrt(10), abs=1e-6)


def test_differences_single_seed_has_no_interval_and_no_p() -> None:
    found = one(differences(table({"a": [[0.8]], "b": [[0.5]]})), target="b/t0")
    assert found["difference"] == pytest.approx(0.3)
    assert found[["low", "high", "p", "p_holm"]].isna().all()


def test_differences_without_spread_claim_no_certainty() -> None:
    assert math.isnan(one(differences(table({"a": [[0.8, 0.9]], "b": [[0.7, 0.8]]})), target="b/t0")["p"])


def test_differences_average_is_the_mean_of_the_targets_and_holm_runs_over_them() -> None:
    frame = differences(table({"a": [[0.52, 0.64, 0.76], [0.5, 0.6, 0.7]], "b": [[0.5, 0.6, 0.7], [0.5, 0.7, 0.7]]}))
    assert one(frame, target="average")["difference"] == pytest.approx((0.04 - 0.1 / 3) / 2)
    # p of the second target: differences 0, -.1, 0: t = -1, p = 1 - 1 / sqrt 3 = .4226.
    assert one(frame, target="b/t0")["p_holm"] == pytest.approx(2 * (1 - math.sqrt(12 / 14)), abs=1e-6)
    assert one(frame, target="b/t1")["p_holm"] == pytest.approx(1 - 1 / math.sqrt(3), abs=1e-6)


def test_differences_against_a_reference_compares_every_other_row_with_it() -> None:
    scores = {"a": [[0.8, 0.7]], "b": [[0.7, 0.6]], "c": [[0.6, 0.5]]}
    frame = differences(table(scores), reference="b")
    assert set(zip(frame["first"], frame["second"], strict=True)) == {("a", "b"), ("c", "b")}
    assert len(differences(table(scores))["first"].index) == 3 * 2


def test_superiority_worked_example() -> None:
    # Pairs: .9 beats both, .7 ties one (half) and loses to none... .9>.7, .9>.6, .7=.7, .7>.6: 3.5 of 4.
    frame = superiority(table({"a": [[0.9, 0.7], [0.5, 0.5]], "b": [[0.7, 0.6], [0.5, 0.5]]}))
    assert one(frame, target="b/t0")["probability"] == pytest.approx(0.875)
    assert one(frame, target="b/t1")["probability"] == pytest.approx(0.5)
    assert one(frame, target="average")["probability"] == pytest.approx((0.875 + 0.5) / 2)


def test_win_tie_loss_counts_ties_in_printed_digits() -> None:
    frame = win_tie_loss(table({"a": [[0.9], [0.70001], [0.5]], "b": [[0.8], [0.7], [0.6]]}))
    assert frame.iloc[0].tolist() == ["a", "b", 1, 1, 1]


def test_critical_difference_matches_the_published_quantiles() -> None:
    # q at 0.05 for 2, 5 and 10 methods is 1.960, 2.728 and 3.164 (Demsar 2006, table 5a).
    # With k = 4, N = 14: CD = 2.569 sqrt(20 / 84) = 1.25.
    for methods, q in ((2, 1.960), (5, 2.728), (10, 3.164)):
        assert critical_difference(methods, 1) / math.sqrt(methods * (methods + 1) / 6) == pytest.approx(q, abs=1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)


def test_ranks_worked_example() -> None:
    # Target 0: a 1, b 2, c 3. Target 1: a and b tie at 1.5, c 3. Target 2: a 1, c 2, b 3.
    found = ranks(table({"a": [[0.9], [0.8], [0.9]], "b": [[0.8], [0.8], [0.1]], "c": [[0.7], [0.1], [0.2]], "d": [[0.1], [], [0.1]]}))
    assert found is not None
    assert found.average == (("a", pytest.approx(3.5 / 3)), ("b", pytest.approx(6.5 / 3)), ("c", pytest.approx(8 / 3)))
    assert found.targets == 3
    # CD = 2.343 sqrt(12 / 18) = 1.913: nothing differs.
    assert found.critical_difference == pytest.approx(1.913, abs=2e-3)
    assert found.cliques == [("a", "b", "c")]
    # Friedman with ties: rank sums 3.5, 6.5, 8; 12 / (3 * 3 * 4) * (12.25 + 42.25 + 64) - 36 = 3.5, divided by the tie correction
    # 1 - 6 / (3 * 24) = 11 / 12 gives 3.818; with 2 degrees of freedom p = exp(-3.818 / 2) = 0.148.
    assert found.friedman_p == pytest.approx(math.exp(-3.5 * 12 / 11 / 2), abs=1e-4)


def test_ranks_of_equal_methods_claim_nothing() -> None:
    found = ranks(table({name: [[0.7], [0.7], [0.7]] for name in "abc"}))
    assert found is not None
    assert found.friedman_p is None
    assert {rank for _, rank in found.average} == {2.0}
