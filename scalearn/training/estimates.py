"""How well a source's features suit a target, estimated without training: LogME, H-score, and the likeness of sources' weights."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from scalearn.formats.source_adapters import SourceAdapters
from scalearn.tasks import Task

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.floating[Any] | np.integer[Any]]

QUARTERS = 4
"""Classes that a regression's targets are cut into for the H-score, at their quartiles."""
_ROUNDS = 200
"""Most rounds of the search for the evidence's maximum. It converges in some ten, unless features fit the targets exactly."""


def target_columns(task: Task, labels: Labels) -> Array:
    """Return what features are to explain, one column per question: `[rows, columns]`.

    A class is a column of zeros and ones, as is a label of many; a regression is one column as it is.
    """
    if task.kind == "regression":
        return np.asarray(labels, dtype=np.float64).reshape(-1, 1)
    if labels.ndim == 2:
        return np.asarray(labels, dtype=np.float64)
    return np.asarray(labels[:, None] == np.unique(labels)[None, :], dtype=np.float64)


def class_numbers(task: Task, labels: Labels) -> list[npt.NDArray[np.int64]]:
    """Return the classes of the rows, `[rows]`: once, or once per label where rows have many."""
    if task.kind == "regression":
        edges = np.quantile(labels, np.arange(1, QUARTERS) / QUARTERS)
        return [np.searchsorted(edges, labels).astype(np.int64)]
    if labels.ndim == 2:
        return [column.astype(np.int64) for column in labels.T]
    return [labels.astype(np.int64)]


def logme(features: Array, targets: Array) -> float:
    """Return the log evidence per row of a Bayesian linear model, maximised over its two precisions, as a mean over the targets.

    This is LogME (You et al. 2021, arXiv 2102.11005, equation 2 and algorithm 2): y ~ N(F w, 1 / beta), w ~ N(0, 1 / alpha).

    Args:
        features: F, `[rows, width]`.
        targets: One column y per question: `[rows, questions]`.
    """
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    return float(np.mean([_evidence(left, singular**2, features.shape[1], column) for column in targets.T]))


def _evidence(left: Array, eigenvalues: Array, width: int, target: Array) -> float:
    rows, projected = len(target), (left.T @ target) ** 2
    rest = max(0.0, float(target @ target - projected.sum()))
    alpha = beta = 1.0
    for _ in range(_ROUNDS):
        ratio = alpha / beta
        gamma = float((eigenvalues / (eigenvalues + ratio)).sum())
        weights, residual = _sums(eigenvalues, projected, rest, ratio)
        alpha, beta = max(gamma, 1e-12) / max(weights, 1e-12), max(rows - gamma, 1e-12) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= 1e-6 * ratio:
            break
    weights, residual = _sums(eigenvalues, projected, rest, alpha / beta)
    # The width - rank directions without features add log alpha, which cancels in the first and second term.
    determinant = float(np.log(alpha + beta * eigenvalues).sum()) + (width - len(eigenvalues)) * np.log(alpha)
    fit = beta * residual + alpha * weights
    evidence = 0.5 * (width * np.log(alpha) + rows * np.log(beta) - determinant - fit - rows * np.log(2 * np.pi))
    return float(evidence) / rows


def _sums(eigenvalues: Array, projected: Array, rest: float, ratio: float) -> tuple[float, float]:
    """Return the squared length of the posterior mean of w, and the squared residual."""
    weights = float((eigenvalues * projected / (eigenvalues + ratio) ** 2).sum())
    residual = float((projected * (ratio / (eigenvalues + ratio)) ** 2).sum()) + rest
    return weights, residual


def h_score(features: Array, classes: npt.NDArray[np.int64]) -> float:
    """Return how far classes lie apart in features of unit covariance: tr(S^-1 (1 - a) cov(E[f | y])).

    This is the H-score (Bao et al. 2019) with the shrunk covariance S = (1 - a) cov(f) + a m I of Ibrahim et al. 2021 (arXiv 2110.06893),
    where a is Ledoit and Wolf's and m the mean variance. Without it, the score is as large as it can be for any features that are wider
    than the rows are many.

    Args:
        features: `[rows, width]`.
        classes: `[rows]`.
    """
    centred = features - features.mean(axis=0)
    means = np.zeros_like(centred)
    for each in np.unique(classes):
        means[classes == each] = centred[classes == each].mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    if not np.trace(covariance) > 0:
        return 0.0  # features without variance tell nothing
    return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, means.T @ means / len(means))))


def weight_likeness(sources: SourceAdapters) -> Tensor:
    """Return the cosine of any two sources' weights, `[sources, sources]`.

    Compared is the linear map U D of each site, so that the order of bottleneck units does not matter, nor the rank of a LoRA. No map is
    made: <U1 D1, U2 D2> is the sum over the entries of (U1^T U2) * (D1 D2^T).
    """
    count = len(sources.names)
    inner = torch.zeros(count, count, dtype=torch.float64)
    for stack in sources.stacks:
        down = stack.down_weight.double().unflatten(0, (count, -1))
        up = stack.up_weight.double()
        ups, downs = torch.einsum("dta,dsb->tsab", up, up), torch.einsum("tad,sbd->tsab", down, down)
        inner += (ups * downs).sum(dim=(2, 3)).cpu()
    lengths = inner.diagonal().clamp(min=1e-30).sqrt()
    return inner / lengths / lengths[:, None]
