"""Differences between methods, and how certain they are.

All statistics use the seeds' scores in a benchmark table's cells, that is, at the learning rates chosen by validation. With the few seeds
of a sweep, the tests have little power and bootstrap intervals are too narrow. So the counts are always given beside them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.tables.benchmark import BenchmarkTable, Cell, Row
from analysis.tables.grid import DIGITS

RESAMPLES = 9999
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over targets (1 is best, and ties share the mean rank), with their tests."""

    average: tuple[tuple[str, float], ...]
    """Pairs (title, average rank), best first, of the methods that have a score on every target."""
    targets: int
    critical_difference: float
    """Nemenyi: average ranks that differ by less than this do not differ at the level `alpha` (Demsar 2006, JMLR 7)."""
    friedman_p: float | None
    """p of Friedman's test that all methods have equal ranks. None: fewer than three methods or two targets."""
    alpha: float

    @property
    def cliques(self) -> list[tuple[str, ...]]:
        """Largest groups of methods whose average ranks do not differ: the bars of a critical-difference plot."""
        groups: list[tuple[str, ...]] = []
        for start, (_, low) in enumerate(self.average):
            group = tuple(title for title, rank in self.average[start:] if rank - low < self.critical_difference)
            if len(group) > 1 and not any(set(group) <= set(other) for other in groups):
                groups.append(group)
        return groups


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction of p values that are tested together (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[index]))
        corrected[index] = largest
    return corrected


def differences(table: BenchmarkTable, reference: str | None = None, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Return the score differences of pairs of rows, per target and on average.

    Seeds are paired if the two cells share at least two. Otherwise the scores are two samples. Intervals are percentile bootstraps over
    seeds (for the average, over the seeds of each target separately). p values are from a paired or Welch's t test, corrected by Holm over
    the targets of a pair. They are missing if a sample has no spread or fewer than two seeds.

    Args:
        table: The benchmark table.
        reference: Title of the row with which all others are compared. None: all pairs of rows are compared.
        confidence: Level of the intervals.
        seed: Seed of the bootstrap's random stream.

    Returns:
        Columns first, second (titles), target (task key, or `average`), difference (first minus second, fraction), low, high, n (pairs, or
        the smaller sample), paired, p, p_holm. There is a row per pair and target on which both have a score. `average` is only over these
        targets, and `targets` has their number.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for first, second in _pairs(table, reference):
        samples = [
            (cell.target, *_samples(cell, other))
            for cell, other in zip(first.cells, second.cells, strict=True)
            if cell.scores and other.scores
        ]
        found = [_difference(target, one, two, paired, confidence, rng) for target, one, two, paired in samples]
        tested = [entry for entry in found if entry["p"] is not None]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_holm"] = p
        if found:
            found.append(_average_difference([(one, two, paired) for _, one, two, paired in samples], confidence, rng))
        rows += [{"first": first.title, "second": second.title, **entry} for entry in found]
    columns = ["first", "second", "target", "difference", "low", "high", "n", "paired", "p", "p_holm", "targets"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"low": "float64", "high": "float64", "difference": "float64", "p": "float64", "p_holm": "float64"})


def superiority(table: BenchmarkTable, reference: str | None = None) -> pd.DataFrame:
    """Return the probability that a random seed of the first row beats one of the second; ties count half (Mann-Whitney's U over n m).

    Returns:
        Columns first, second, target (task key, or `average`), probability.
    """
    rows = []
    for first, second in _pairs(table, reference):
        values = []
        for cell, other in zip(first.cells, second.cells, strict=True):
            if cell.scores and other.scores:
                one, two = [score for _, score in cell.scores], [score for _, score in other.scores]
                values.append((cell.target, float(stats.mannwhitneyu(one, two).statistic) / (len(one) * len(two))))
        if values:
            values.append(("average", fmean(value for _, value in values)))
        rows += [(first.title, second.title, target, value) for target, value in values]
    return pd.DataFrame(rows, columns=["first", "second", "target", "probability"])


def win_tie_loss(table: BenchmarkTable, reference: str | None = None) -> pd.DataFrame:
    """Count the targets where the first row's mean is above, equal to or below the second's, in the digits that the table prints.

    Returns:
        Columns first, second, win, tie, loss.
    """
    rows = []
    for first, second in _pairs(table, reference):
        signs = [
            np.sign(round(100 * one, DIGITS) - round(100 * two, DIGITS))
            for cell, other in zip(first.cells, second.cells, strict=True)
            if (one := cell.mean) is not None and (two := other.mean) is not None
        ]
        rows.append((first.title, second.title, signs.count(1), signs.count(0), signs.count(-1)))
    return pd.DataFrame(rows, columns=["first", "second", "win", "tie", "loss"])


def ranks(table: BenchmarkTable, *, alpha: float = 0.05) -> Ranks | None:
    """Return the average ranks of the complete rows. None: there are fewer than two."""
    rows = [row for row in table.rows if row.is_complete]
    if len(rows) < 2:
        return None
    means = np.array([[cell.mean for cell in row.cells] for row in rows], dtype=float)
    by_target = stats.rankdata(-means, axis=0)
    average = sorted(((row.title, float(rank)) for row, rank in zip(rows, by_target.mean(axis=1), strict=True)), key=lambda pair: pair[1])
    k, n = means.shape
    # Friedman's statistic is 0 / 0 if all methods tie on every target.
    p = float(stats.friedmanchisquare(*means).pvalue) if k > 2 and n > 1 and np.ptp(by_target) > 0 else None
    return Ranks(tuple(average), n, critical_difference(k, n, alpha), p, alpha)


def critical_difference(methods: int, targets: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks: q_alpha sqrt(k (k + 1) / (6 N)) for k methods on N targets."""
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * targets))


def default_reference(table: BenchmarkTable) -> str:
    """Return the title of the row to compare with: the single-task adapter if there is one, otherwise the first row."""
    return next((row.title for row in table.rows if row.method == "adapter"), table.rows[0].title)


def _pairs(table: BenchmarkTable, reference: str | None) -> Iterator[tuple[Row, Row]]:
    if reference is None:
        yield from combinations(table.rows, 2)
        return
    (base,) = [row for row in table.rows if row.title == reference][:1] or [table.rows[0]]
    bases = {base.backbone: base}  # what a row is compared with is on its own backbone, as far as there is such a row
    for row in table.rows:
        if row.title_on_backbone == base.title_on_backbone:
            bases.setdefault(row.backbone, row)
    yield from ((row, bases.get(row.backbone, base)) for row in table.rows if row not in bases.values())


def _samples(cell: Cell, other: Cell) -> tuple[Array, Array, bool]:
    """Return both cells' scores: those of shared seeds in equal order if there are at least two, otherwise all."""
    one, two = dict(cell.scores), dict(other.scores)
    shared = sorted(one.keys() & two.keys())
    if len(shared) > 1 or (len(one) == len(two) == len(shared)):
        return np.array([one[seed] for seed in shared]), np.array([two[seed] for seed in shared]), True
    return np.array(list(one.values())), np.array(list(two.values())), False


def _difference(target: str, one: Array, two: Array, paired: bool, confidence: float, rng: np.random.Generator) -> dict[str, Any]:
    low, high = _interval(_resampled(one, two, paired, rng), confidence)
    count = min(len(one), len(two))
    enough = count > 1
    return {
        "target": target,
        "difference": float(one.mean() - two.mean()),
        "low": low if enough else None,
        "high": high if enough else None,
        "n": count,
        "paired": paired,
        "p": _p_value(one, two, paired) if enough else None,
        "targets": 1,
    }


def _average_difference(samples: Sequence[tuple[Array, Array, bool]], confidence: float, rng: np.random.Generator) -> dict[str, Any]:
    resampled = np.mean([_resampled(one, two, paired, rng) for one, two, paired in samples], axis=0)
    low, high = _interval(resampled, confidence)
    count = min(min(len(one), len(two)) for one, two, _ in samples)
    return {
        "target": "average",
        "difference": float(np.mean([one.mean() - two.mean() for one, two, _ in samples])),
        "low": low if count > 1 else None,
        "high": high if count > 1 else None,
        "n": count,
        "paired": all(paired for _, _, paired in samples),
        "p": None,
        "p_holm": None,
        "targets": len(samples),
    }


def _resampled(one: Array, two: Array, paired: bool, rng: np.random.Generator) -> Array:
    """Return bootstrap replicates of the difference of means, shape [RESAMPLES]."""
    if paired:
        difference = one - two
        return np.asarray(difference[rng.integers(len(difference), size=(RESAMPLES, len(difference)))].mean(axis=1))
    first = one[rng.integers(len(one), size=(RESAMPLES, len(one)))].mean(axis=1)
    return np.asarray(first - two[rng.integers(len(two), size=(RESAMPLES, len(two)))].mean(axis=1))


def _interval(replicates: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _p_value(one: Array, two: Array, paired: bool) -> float | None:
    """Return the p value of a two-sided t test. None: the scores have no spread, so their variance says nothing."""
    spread = np.ptp(one - two) if paired else max(np.ptp(one), np.ptp(two))
    if spread < 1e-12:
        return None
    result = stats.ttest_rel(one, two) if paired else stats.ttest_ind(one, two, equal_var=False)
    return float(result.pvalue)
