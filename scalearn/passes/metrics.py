"""Scores of predictions, by scikit-learn and scipy. Every score is a finite number in [-1, 1].

Where a score is undefined (only one class, constant predictions), it is 0 and a warning says so, so that a table never holds a NaN.
"""

import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.exceptions import UndefinedMetricWarning

from scalearn.tasks.task import Metric, Task

Array = npt.NDArray[Any]

THRESHOLD = 0.5
"""For multi-label tasks, a class is predicted if its probability is above this (docs/protocol.md, Tasks)."""


class UndefinedScoreWarning(UserWarning):
    """A score is undefined for the given labels and predictions, and is reported as 0."""


def evaluate(task: Task, logits: Array, rows: Dataset) -> dict[str, float]:
    """Score the predictions of a task.

    Args:
        task: The task; `task.metrics` names the scores.
        logits: Output of the head: [rows, classes]; for regression [rows] or [rows, 1]; for multiple choice [rows, choices].
        rows: All tokenised rows of a split, in the same order. They must be all, since groups may be spread over the split.

    Returns:
        Scores by metric name, as fractions, in the order of `task.metrics`.

    Raises:
        ValueError: The numbers of rows differ, or there are no rows.
        FloatingPointError: A logit is not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if len(logits) == 0 or len(logits) != len(rows):
        raise ValueError(f"{len(logits)} rows of logits for {len(rows)} rows of task {task.key}")
    if not np.isfinite(logits).all():
        raise FloatingPointError(f"Logits of task {task.key} are not finite.")
    labels = np.asarray(rows.select_columns("label").with_format("numpy")[:]["label"])
    if task.kind == "per_candidate":
        scores = _candidate_scores(logits, rows)
        return {name: scores[name] for name in task.metrics}
    predictions = _predictions(task, logits)
    groups = rows.select_columns("group")[:]["group"] if task.kind == "grouped_answers" else None
    return {name: _score(name, labels, predictions, groups) for name in task.metrics}


def _predictions(task: Task, logits: Array) -> Array:
    match task.head:
        case "regression":
            values: Array = logits.reshape(len(logits))
            return values
        case "multi_label":
            chosen: Array = (logits > np.log(THRESHOLD / (1 - THRESHOLD))).astype(np.int64)
            return chosen
        case _:
            predictions: Array = logits.argmax(axis=-1)
            return predictions


def _score(name: Metric, labels: Array, predictions: Array, groups: Sequence[Any] | None) -> float:
    if name == "exact_match":
        assert groups is not None
        return grouped_exact_match(labels, predictions, groups)
    return _SCORES[name](labels, predictions)


def accuracy(labels: Array, predictions: Array) -> float:
    """Return the share of rows whose label is predicted; for multi-label tasks, of rows whose whole label set is predicted."""
    return float(sklearn_metrics.accuracy_score(labels, predictions))


def matthews(labels: Array, predictions: Array) -> float:
    """Return the Matthews correlation coefficient; 0 if labels or predictions are constant."""
    if _constant(labels) or _constant(predictions):
        return _undefined("Matthews correlation", "labels or predictions are constant")
    return float(sklearn_metrics.matthews_corrcoef(labels, predictions))


def pearson(labels: Array, predictions: Array) -> float:
    """Return the Pearson correlation; 0 if labels or predictions are constant."""
    return _correlation("Pearson correlation", stats.pearsonr, labels, predictions)


def spearman(labels: Array, predictions: Array) -> float:
    """Return the Spearman rank correlation; 0 if labels or predictions are constant."""
    return _correlation("Spearman correlation", stats.spearmanr, labels, predictions)


def f1(labels: Array, predictions: Array) -> float:
    """Return the F1 of class 1; 0 if it is neither present nor predicted."""
    with _told("F1"):
        return float(sklearn_metrics.f1_score(labels, predictions, average="binary", pos_label=1))


def macro_f1(labels: Array, predictions: Array) -> float:
    """Return the mean F1 over the classes that occur among labels or predictions (multi-label: over all classes)."""
    with _told("Macro F1"):
        return float(sklearn_metrics.f1_score(labels, predictions, average="macro"))


def grouped_exact_match(labels: Array, predictions: Array, groups: Sequence[Any]) -> float:
    """Return the share of groups in which all rows are predicted right. A group is a question of MultiRC."""
    right: dict[Any, bool] = defaultdict(lambda: True)
    for group, correct in zip(groups, labels == predictions, strict=True):
        right[group] = right[group] and bool(correct)
    return sum(right.values()) / len(right)


def token_f1(prediction: str, answer: str) -> float:
    """Return the F1 between the bags of words of two strings, normalised as in SQuAD; 0 if they share no word, as two empty ones.

    >>> round(token_f1("the Barack Obama", "Obama"), 3)
    0.667
    """
    predicted, gold = normalised_answer(prediction).split(), normalised_answer(answer).split()
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


def normalised_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and repeated white space.

    >>> normalised_answer("The  U.S. ")
    'us'
    """
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _candidate_scores(logits: Array, rows: Dataset) -> dict[str, float]:
    """Score ReCoRD: compare each query's candidate of the largest logit of class 1 with the gold answers; the best answer counts.

    Args:
        logits: [rows, 2], one row per (query, candidate); class 1 is "answers the query".
        rows: Rows with `group` (the query), `candidate` and `answers`.
    """
    columns = rows.select_columns(["group", "candidate", "answers"])[:]
    best: dict[Any, tuple[float, str, list[str]]] = {}
    for logit, group, candidate, answers in zip(logits[:, 1], *columns.values(), strict=True):
        if group not in best or logit > best[group][0]:
            best[group] = (float(logit), candidate, answers)
    chosen = [(candidate, answers) for _, candidate, answers in best.values()]
    return {
        "f1": float(np.mean([max(token_f1(candidate, answer) for answer in answers) for candidate, answers in chosen])),
        "exact_match": float(np.mean([normalised_answer(candidate) in map(normalised_answer, answers) for candidate, answers in chosen])),
    }


def _correlation(name: str, function: Callable[[Array, Array], Any], labels: Array, predictions: Array) -> float:
    if _constant(labels) or _constant(predictions):
        return _undefined(name, "labels or predictions are constant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(function(labels.astype(np.float64), predictions)[0])
    return value if np.isfinite(value) else _undefined(name, "labels or predictions are nearly constant")


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _undefined(name: str, reason: str) -> float:
    warnings.warn(f"{name} is undefined because {reason}; it stands at 0.", UndefinedScoreWarning, stacklevel=3)
    return 0.0


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn scikit-learn's warning into ours; the value is then 0."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, UndefinedMetricWarning):
            _undefined(name, "a class is neither present nor predicted")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


_SCORES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "f1": f1,
    "f1a": f1,  # MultiRC's F1 over all answers of all questions
    "macro_f1": macro_f1,
}
