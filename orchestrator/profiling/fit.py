"""The lines through measured packs that a profile holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.profiling.profile import Pace

EVALUATION_ROWS = 64
"""Rows of a measured validation, and as many of a test. Each is one pass."""

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MeasuredPack:
    """The measurement of one pack."""

    jobs: int
    rows: int
    """Rows per job."""
    length: int
    """Mean tokens of a row."""
    step_seconds: float
    evaluation_seconds: float
    """Seconds per job for 128 rows of validation and test together."""
    around_seconds: float
    """Seconds per job outside training and evaluation, without loading the backbone."""


def fit_paces(points: Mapping[str, Iterable[Sequence[MeasuredPack]]]) -> tuple[dict[str, Pace], dict[str, Pace]]:
    """Fit the lines of all methods.

    Args:
        points: For each method, the measurements of every shape.

    Returns:
        The paces of steps and of evaluation passes, by method.
    """
    fastest = {method: [_fastest(measured) for measured in shapes] for method, shapes in points.items()}
    train = {method: fit_pace(packs) for method, packs in fastest.items()}
    return train, {method: _fit_evaluation(packs) for method, packs in fastest.items()}


def fit_pace(points: Sequence[MeasuredPack]) -> Pace:
    """Fit the line of a step through measured packs, with no negative part.

    The largest pack is the smallest one whose jobs each take at most 3 % more of the device than in the best pack.
    """
    design = np.array([[1.0, point.jobs, point.jobs * point.rows * point.length] for point in points])
    seconds = np.array([point.step_seconds for point in points])
    # Relative errors count, and columns of similar size keep the fit well-conditioned.
    scale = design.max(axis=0)
    fixed, per_job, per_token = _not_negative(design / scale / seconds[:, None], np.ones(len(points))) / scale
    shortest = min(point.length for point in points)
    shares = {point.jobs: point.step_seconds / point.jobs for point in points if point.length == shortest}
    best = min(shares.values())
    largest = min(jobs for jobs, share in shares.items() if share <= 1.03 * best)
    measured = tuple((point.jobs, point.rows, point.length, round(point.step_seconds, 5)) for point in points)
    return Pace(_short(fixed), _short(per_job), max(_short(per_token), 1e-12), largest, measured)


def _not_negative(design: Array, target: Array) -> Array:
    """Return the least-squares solution without negative parts.

    It is the solution without constraint for some of the columns, and there are so few that all choices can be tried. Of equally good ones,
    that of the fewest columns counts.
    """
    columns = range(design.shape[1])
    solution, error = np.zeros(len(columns)), float(target @ target)
    for chosen in map(list, chain.from_iterable(combinations(columns, count) for count in range(1, len(columns) + 1))):
        parts = np.linalg.lstsq(design[:, chosen], target)[0]
        residual = target - design[:, chosen] @ parts
        if parts.min() >= 0 and residual @ residual < error - 1e-12:
            solution, error = np.zeros(len(columns)), float(residual @ residual)
            solution[chosen] = parts
    return solution


def _fit_evaluation(points: Sequence[MeasuredPack]) -> Pace:
    """Fit the line of an evaluation pass of 64 rows. Half of the measured rows are for validation, whose passes a pack shares."""
    alone = [point for point in points if point.jobs == 1]
    lengths = np.array([point.length for point in alone], dtype=float)
    seconds = np.array([point.evaluation_seconds for point in alone])
    slope, start = np.polyfit(lengths, seconds, 1)
    per_token, fixed = max(slope / (2 * EVALUATION_ROWS), 1e-12), max(0.0, start / 2)
    measured = tuple((1, EVALUATION_ROWS, point.length, round(point.evaluation_seconds / 2, 5)) for point in alone)
    return Pace(_short(fixed), 0.0, _short(per_token), 1, measured)


def _fastest(points: Sequence[MeasuredPack]) -> MeasuredPack:
    """Return the fastest measurement of one shape, which was disturbed least."""
    evaluation, around = (min(getattr(point, name) for point in points) for name in ("evaluation_seconds", "around_seconds"))
    step = min(point.step_seconds for point in points)
    return replace(points[0], step_seconds=step, evaluation_seconds=evaluation, around_seconds=around)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
