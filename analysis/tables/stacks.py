"""The scores of a sweep by what was stacked: the common ground of all questions about sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.reading.frame import distinct
from analysis.reading.names import short_name
from analysis.reading.selection import choose_learning_rate, variants
from analysis.tables.grids import signed
from analysis.tables.statistics import RESAMPLES

FIXED = "scalearn_fixed"
"""The method whose omegas are given. The best of several counts for it, chosen by validation; all zero means that nothing is stacked."""
LEVEL = 0.05
"""Level at which a difference counts as certain, after Holm's correction."""

_NEEDED = (
    *("node", "method", "task", "sources", "quality", "seed", "learning_rate"),
    *("tuned", "state", "primary", "split", "value"),
)
LEAST_RANKED = 4
"""Fewer values have no order that could be told from chance: of three, one in six orders is the same."""


@dataclass(frozen=True)
class Estimate:
    """A mean of paired differences, and how certain it is."""

    mean: float
    low: float | None
    """Ends of the 95% interval of Student's t. None: there are fewer than two pairs, or they do not differ among themselves."""
    high: float | None
    n: int
    p: float | None


def stack_scores(frame: pd.DataFrame, *, split: str = "test") -> pd.DataFrame:
    """Return the primary scores of all transfer jobs by their sources, at the learning rate that validation chose for these sources.

    Returns:
        Columns method, variant (what else tells jobs of the method apart), task, sources (joined by commas; empty for nothing), count,
        own (whether the target's own is among them), quality (as the frame's `source_quality`, or empty), seed, value, node.
    """
    jobs = distinct(frame[(frame["stage"] == "transfer") & frame["sources"].notna()].drop(columns="variant", errors="ignore"))
    columns = ["method", "variant", "task", "sources", "count", "own", "quality", "seed", "value", "node"]
    if jobs.empty:
        return pd.DataFrame(columns=columns)
    jobs = jobs.assign(sources=jobs["selected"].fillna(jobs["sources"]))
    jobs = jobs.assign(sources=_stacked(jobs), quality=jobs["source_quality"].fillna(""))
    nodes = jobs.drop_duplicates(["node", "task"])
    alike: dict[str, Any] = {"sources": "", "source_count": 0, "source_quality": "", "parents": "", "source_seed": "", "tuned": ""}
    alike |= {"setting_omega": ""} if "setting_omega" in nodes else {}
    nodes = nodes.assign(variant=variants(nodes.drop(columns="quality").assign(**alike)))
    needed = [name for name in (*_NEEDED, "setting_omega") if name in jobs]  # few columns, since each cell copies them
    jobs = jobs[needed].merge(nodes[["node", "task", "variant"]], on=["node", "task"])
    found = []
    for (method, variant, task, sources, quality), cell in jobs.groupby(["method", "variant", "task", "sources", "quality"]):
        if method == FIXED and "setting_omega" in cell:  # a damaged job has none
            cell = cell.assign(tuned="omega=" + cell["setting_omega"].astype(str))
        elif method == "best_source":
            cell = cell.assign(tuned="")
        choice = choose_learning_rate(cell, "validation", str(method))
        shown = cell[choice.picks(cell) & cell["primary"].fillna(False).astype(bool) & (cell["split"] == split) & cell["value"].notna()]
        names = str(sources).split(",") if sources else []
        about = (method, variant, task, sources, len(names), short_name(str(task)) in names, quality)
        found += [
            (*about, int(seed), float(value), node) for seed, value, node in zip(shown["seed"], shown["value"], shown["node"], strict=True)
        ]
    return pd.DataFrame(found, columns=columns)


def _stacked(jobs: pd.DataFrame) -> "pd.Series[str]":
    """Return each job's sources; none where all of its fixed omegas are zero."""
    if "setting_omega" not in jobs:
        return jobs["sources"]
    nothing = jobs["setting_omega"].astype("str").fillna("").str.fullmatch(r"(0(\.0)?,?)+").fillna(False).astype(bool)
    return jobs["sources"].mask((jobs["method"] == FIXED) & nothing, "")


def largest(scores: pd.DataFrame) -> set[str]:
    """Return the nodes of each method's largest stack of whole sources for each target: the one that a plain row stacks."""
    whole = scores[scores["quality"] == ""]
    most = whole.groupby(["method", "task"])["count"].transform("max")
    return set(whole.loc[whole["count"] == most, "node"])


def groups(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Iterate over method, variant and the scores of stacks in which no source is of poorer quality."""
    for (method, variant), part in scores[scores["quality"] == ""].groupby(["method", "variant"], sort=False):
        yield str(method), str(variant), part


def by_seed(scores: pd.DataFrame) -> "pd.Series[float]":
    """Return the mean score of each seed, so that samples can be paired by it."""
    means: pd.Series[float] = scores.groupby("seed")["value"].mean()
    return means


def paired(one: "pd.Series[float]", two: "pd.Series[float]") -> Estimate | None:
    """Compare two samples with seeds as index, on the seeds that both have. None: they share none."""
    difference = (one - two).dropna()
    return estimate(difference.tolist()) if len(difference) else None


def estimate(differences: Sequence[float]) -> Estimate:
    """Return the mean of paired differences with Student's interval and p.

    With two or three pairs such an interval is wide, but holds what it says; a bootstrap of so few would be too narrow.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or np.ptp(values) < 1e-12:
        return Estimate(float(values.mean()), None, None, len(values), None)
    result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(0.95)
    return Estimate(float(values.mean()), float(interval.low), float(interval.high), len(values), float(result.pvalue))


def rank_correlation(one: Sequence[float], two: Sequence[float]) -> tuple[float, float] | None:
    """Return Spearman's correlation and its two-sided p, by permutation. None: fewer than four values, or all equal."""
    first, second = stats.rankdata(one), stats.rankdata(two)
    if len(first) < LEAST_RANKED or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    first, second = (first - first.mean()) / first.std(), (second - second.mean()) / second.std()
    found = float((first * second).mean())
    shuffled = np.random.default_rng(0).permuted(np.tile(second, (RESAMPLES, 1)), axis=1)
    as_far = np.abs(shuffled @ first / len(first)) >= abs(found) - 1e-9
    return found, float((1 + as_far.sum()) / (1 + RESAMPLES))


def verdict(mean: float, p_holm: float | None) -> str:
    """Return what a corrected p says of a difference: `helps`, `hurts`, or `unclear`."""
    if p_holm is None or np.isnan(p_holm) or p_holm >= LEVEL:
        return "unclear"
    return "helps" if mean > 0 else "hurts"


def points(estimate: Estimate) -> str:
    """Return an estimate in percentage points: `+1.9 points (95% interval 0.5 to 3.3, 3 seeds)`."""
    return f"{signed(estimate.mean)} points ({interval(estimate)})"


def interval(estimate: Estimate) -> str:
    """Return how certain a difference is, in words: its interval and the number of seeds."""
    seeds = f"{estimate.n} seed{'s' if estimate.n != 1 else ''}"
    if estimate.low is None or estimate.high is None:
        return f"{seeds}: too few to tell" if estimate.n < 2 else f"the same in all {seeds}"
    return f"95% interval {signed(estimate.low)} to {signed(estimate.high)}, {seeds}"


def mean_correlation(by_target: Sequence[float]) -> str:
    """Return the mean of rank correlations over targets, in words. Its interval ends where correlations do."""
    told = estimate(by_target)
    spread = (
        ""
        if told.low is None or told.high is None
        else f" (95% interval {max(told.low, -1):.2f} to {min(told.high, 1):.2f} over {told.n} targets)"
    )
    return f"mean rank correlation of {told.mean:.2f}{spread}".replace("-", "−")


def certain(estimate: Estimate) -> bool:
    """Tell whether an estimate's interval excludes zero."""
    return estimate.low is not None and estimate.high is not None and estimate.low * estimate.high > 0
