"""Scores on cases computed by hand, and defined values where a score is undefined."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from scalearn.passes.metrics import UndefinedScoreWarning, evaluate, normalised_answer, token_f1
from scalearn.tasks import benchmark_tasks, get_task


def one_hot(classes: Sequence[int], count: int = 2) -> np.ndarray[Any, Any]:
    return np.eye(count)[list(classes)]


def scores(key: str, predictions: Sequence[int], labels: Sequence[int], count: int = 2) -> dict[str, float]:
    return evaluate(get_task(key), one_hot(predictions, count), Dataset.from_dict({"label": list(labels)}))


def test_cola_by_hand() -> None:
    # true positives 3, true negatives 1, false positives 1, false negatives 1
    result = scores("glue/cola", [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1])
    assert result["matthews"] == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))
    assert result["accuracy"] == pytest.approx(4 / 6)


def test_mrpc_by_hand() -> None:
    # precision 2/3, recall 2/4
    result = scores("glue/mrpc", [1, 1, 1, 0, 0], [1, 1, 0, 1, 1])
    assert result == {"accuracy": pytest.approx(2 / 5), "f1": pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))}


def test_stsb_by_hand() -> None:
    rows = Dataset.from_dict({"label": [0.0, 1.0, 2.0, 5.0]})
    logits = np.array([[0.1], [0.2], [0.4], [0.3]])
    result = evaluate(get_task("glue/stsb"), logits, rows)
    x, y = np.array([0, 1, 2, 5.0]), np.array([0.1, 0.2, 0.4, 0.3])
    x, y = x - x.mean(), y - y.mean()
    assert result["pearson"] == pytest.approx(float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())))
    assert result["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 1 twice
    assert evaluate(get_task("glue/stsb"), logits[:, 0], rows) == result


def test_cb_macro_f1_by_hand() -> None:
    result = scores("super_glue/cb", [0, 0, 1, 2], [0, 1, 1, 2], 3)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_copa_takes_the_highest_choice() -> None:
    result = evaluate(
        get_task("super_glue/copa"), np.array([[0.2, -0.1], [-3.0, -2.0], [1.0, 4.0]]), Dataset.from_dict({"label": [0, 1, 0]})
    )
    assert result == {"accuracy": pytest.approx(2 / 3)}


def test_humset_macro_f1_at_threshold_by_hand() -> None:
    rows = Dataset.from_dict({"label": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]})
    # class 0: right; class 1: missed one; class 2: one right, one missed, one false
    logits = np.array([[2.0, -1.0, 0.1], [-0.1, -2.0, -0.1], [-1.0, -1.0, 0.1]])
    assert evaluate(get_task("humset/sectors"), logits, rows) == {"macro_f1": pytest.approx((1 + 0 + 0.5) / 3)}


def test_threshold_is_one_half_and_strict() -> None:
    rows = Dataset.from_dict({"label": [[1.0], [0.0]]})
    assert evaluate(get_task("humset/sectors"), np.array([[1e-6], [0.0]]), rows) == {"macro_f1": 1.0}


def test_multirc_over_answers_and_whole_questions() -> None:
    rows = Dataset.from_dict({"label": [1, 0, 1, 1, 0], "group": ["0-0", "0-0", "0-1", "0-1", "1-0"]})
    result = evaluate(get_task("super_glue/multirc"), one_hot([1, 0, 1, 0, 1]), rows)
    assert result == {"f1a": pytest.approx(2 * 2 / (3 + 3)), "exact_match": pytest.approx(1 / 3)}


def test_multirc_groups_may_be_scattered_over_batches() -> None:
    labels, predictions, groups = [1, 1, 0, 0], [1, 0, 0, 0], ["a", "b", "a", "b"]
    rows = Dataset.from_dict({"label": labels, "group": groups})
    assert evaluate(get_task("super_glue/multirc"), one_hot(predictions), rows)["exact_match"] == 0.5


def record(rows: list[tuple[int, str, list[str], float]]) -> dict[str, float]:
    columns = {
        "group": [row[0] for row in rows],
        "candidate": [row[1] for row in rows],
        "answers": [row[2] for row in rows],
        "label": [int(row[1] in row[2]) for row in rows],
    }
    logits = np.array([[0.0, row[3]] for row in rows])
    return evaluate(get_task("super_glue/record"), logits, Dataset.from_dict(columns))


def test_record_best_candidate_against_best_answer() -> None:
    result = record(
        [
            (0, "Barack Obama", ["Obama", "President Obama"], 2.0),
            (0, "Michelle", ["Obama", "President Obama"], 1.0),
            (1, "The U.S.", ["US"], -1.0),
            (1, "Iraq", ["US"], -2.0),
        ]
    )
    # query 0: {barack, obama} against {obama}: 2/3, against {president, obama}: 1/2; query 1: equal once normalised
    assert result == {"f1": pytest.approx((2 / 3 + 1) / 2), "exact_match": pytest.approx(1 / 2)}


def test_record_ranks_by_the_logit_of_class_1_and_not_by_the_difference() -> None:
    columns = {"group": [0, 0], "candidate": ["A", "B"], "answers": [["A"], ["A"]], "label": [1, 0]}
    logits = np.array([[5.0, 4.0], [0.0, 1.0]])
    assert evaluate(get_task("super_glue/record"), logits, Dataset.from_dict(columns))["exact_match"] == 1.0


@given(st.permutations(range(9)))
def test_record_does_not_depend_on_where_batches_end(order: list[int]) -> None:
    rows = [
        (query, name, ["Ann Lee"], value) for query in range(3) for name, value in (("Ann Lee", query - 1.0), ("Bo", 0.5), ("Lee", 0.2))
    ]
    assert record([rows[index] for index in order]) == pytest.approx(record(rows))


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat", "a cat", 1.0),
        ("cat", "dog", 0.0),
        ("New York City", "New York", 0.8),
        ("a a b", "b", 1.0),
        ("x x y", "x y y", 2 / 3),
        ("the", "the", 0.0),  # no word is left of either
        ("", "", 0.0),
        ("the", "cat", 0.0),
    ],
)
def test_token_f1_by_hand(prediction: str, answer: str, expected: float) -> None:
    assert token_f1(prediction, answer) == pytest.approx(expected)


def test_normalisation_drops_case_punctuation_articles_and_space() -> None:
    assert normalised_answer("  An  Apple's THE core! ") == "apples core"
    assert normalised_answer("The Theatre") == "theatre"


@pytest.mark.parametrize(
    ("key", "predictions", "labels"),
    [
        ("glue/cola", [1, 1, 1], [1, 0, 1]),
        ("glue/cola", [1, 0, 1], [1, 1, 1]),
        ("glue/mrpc", [0, 0], [0, 0]),
        ("super_glue/multirc", [0, 0], [0, 0]),
    ],
)
def test_undefined_score_is_zero_with_a_warning(key: str, predictions: list[int], labels: list[int]) -> None:
    task = get_task(key)
    rows = Dataset.from_dict({"label": labels, "group": ["q"] * len(labels)})
    with pytest.warns(UndefinedScoreWarning, match="stands at 0"):
        result = evaluate(task, one_hot(predictions), rows)
    assert result[task.metrics[0] if key != "glue/mrpc" else "f1"] == 0.0


@pytest.mark.filterwarnings("ignore:Spearman")
@pytest.mark.parametrize(("logits", "labels"), [([1.0, 1.0, 1.0], [0.0, 2.0, 5.0]), ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]), ([1.0], [3.0])])
def test_undefined_correlations_are_zero_with_a_warning(logits: list[float], labels: list[float]) -> None:
    with pytest.warns(UndefinedScoreWarning, match="Pearson"):
        result = evaluate(get_task("glue/stsb"), np.array(logits), Dataset.from_dict({"label": labels}))
    assert result == {"pearson": 0.0, "spearman": 0.0}


def test_class_that_never_occurs_counts_as_zero_on_humset_with_a_warning() -> None:
    rows = Dataset.from_dict({"label": [[1.0, 0.0], [1.0, 0.0]]})
    with pytest.warns(UndefinedScoreWarning):
        assert evaluate(get_task("humset/sectors"), np.array([[1.0, -1.0], [1.0, -1.0]]), rows) == {"macro_f1": 0.5}


def test_defined_scores_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores("glue/mrpc", [1, 0, 1], [1, 0, 0])
        scores("domains/apple", [0, 1, 2, 1], [0, 1, 2, 2], 3)


@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
    key=st.sampled_from([key for key in benchmark_tasks("glue") if get_task(key).num_labels == 2]),
)
def test_scores_are_finite_fractions_whatever_the_input(labels: list[int], seed: int, key: str) -> None:
    logits = np.random.default_rng(seed).normal(size=(len(labels), 2)).round()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScoreWarning)
        result = evaluate(get_task(key), logits, Dataset.from_dict({"label": labels}))
    assert tuple(result) == get_task(key).metrics
    assert all(-1 <= value <= 1 for value in result.values())


def test_rows_must_match_and_logits_must_be_finite() -> None:
    rows = Dataset.from_dict({"label": [0, 1]})
    with pytest.raises(ValueError, match="3 rows of logits for 2 rows"):
        evaluate(get_task("glue/rte"), np.zeros((3, 2)), rows)
    with pytest.raises(FloatingPointError, match="glue/rte"):
        evaluate(get_task("glue/rte"), np.array([[0.0, np.nan], [0.0, 1.0]]), rows)
