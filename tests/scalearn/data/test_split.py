"""Splits, compared row by row with what `datasets` draws, and samples of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from scalearn.config import DataConfig
from scalearn.data import TaskSplits, load_task
from scalearn.data.split import draw, split
from scalearn.errors import UserError
from scalearn.tasks import benchmark_tasks, get_task
from tests.scalearn.helpers.small import data

SHARES: tuple[dict[str, Any], ...] = ({"train_share": 0.5}, {})
UNSTRATIFIED = {"glue/stsb", "super_glue/cb"}
EXCERPTS = [key for key in benchmark_tasks("gsg") if key not in ("glue/stsb", "super_glue/wsc")] + ["super_glue/rte"]


def load(key: str, root: Path, **settings: Any) -> TaskSplits:
    return load_task(DataConfig(key, "test", **settings), root=root)


def reference(path: Path, cache: Path) -> Dataset:
    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache))


@pytest.mark.parametrize("key", EXCERPTS)
def test_splits_are_the_published_ones_row_by_row(key: str, shared: Path, tmp_path: Path) -> None:
    _compare(key, shared / "benchmarks", tmp_path)


@pytest.mark.parametrize("key", ["glue/stsb", "super_glue/wsc"])
def test_splits_of_written_rows_are_the_published_ones_row_by_row(key: str, written: Path, tmp_path: Path) -> None:
    _compare(key, written, tmp_path)


def _compare(key: str, root: Path, cache: Path) -> None:
    ours, directory = load(key, root), root / key
    train = reference(directory / "train.parquet", cache)
    validation_file = "validation_matched" if key == "glue/mnli" else "validation"
    published = reference(directory / f"{validation_file}.parquet", cache)
    if key == "super_glue/record":
        expected = {"train": train, "validation": published, "test": published}
    else:
        stratify = {} if key in UNSTRATIFIED else {"stratify_by_column": "label"}
        parts = train.train_test_split(test_size=0.1, shuffle=True, seed=42, **stratify)
        expected = {"train": parts["train"], "validation": parts["test"], "test": published}
    if key == "glue/mnli":
        expected["test_mismatched"] = reference(directory / "validation_mismatched.parquet", cache)
    assert list(ours.splits) == list(expected)
    for name, rows in expected.items():
        assert ours.splits[name].column_names == rows.column_names
        assert ours.splits[name].to_list() == rows.to_list(), f"{name} of {key}"


def test_humset_keeps_its_own_splits(written: Path, tmp_path: Path) -> None:
    ours = load("humset/sectors", written)
    for name in ("train", "validation", "test"):
        rows = reference(written / "humset/sectors" / f"{name}.parquet", tmp_path)
        assert ours.splits[name]["excerpt"][:] == rows["excerpt"][:]
        assert ours.splits[name]["label"][:] == rows["sectors"][:]


@pytest.mark.parametrize("count", [4, 16, 32, 100])
def test_few_shot_rows_are_the_first_that_the_split_returns(count: int, shared: Path, tmp_path: Path) -> None:
    root = shared / "benchmarks"
    published = reference(root / "glue/rte/train.parquet", tmp_path)
    parts = published.train_test_split(test_size=0.1, shuffle=True, seed=42, stratify_by_column="label")
    few = load("glue/rte", root, few_shot=count)
    assert few.train.to_list() == parts["train"].to_list()[:count]
    assert few.validation.to_list() == parts["test"].to_list()


def test_few_shot_validation_is_capped_at_5000_rows_and_test_is_not(shared: Path) -> None:
    few = load("glue/qnli", shared / "benchmarks", few_shot=4)
    assert (len(few.validation), len(few.test)) == (1000, 5463)
    rows = Dataset.from_dict({"sentence1": ["a"] * 60_000, "sentence2": ["b"] * 60_000, "label": [0, 1, 2] * 20_000})
    rows = rows.cast_column("label", ClassLabel(num_classes=3))
    published = {"train": rows, "validation_matched": rows, "validation_mismatched": rows}
    task = get_task("glue/mnli")
    splits = split(task, published, DataConfig(task.key, "test", few_shot=16), task.label_names).splits
    assert {name: len(each) for name, each in splits.items()} == {"train": 16, "validation": 5000, "test": 60_000, "test_mismatched": 5000}


@pytest.mark.parametrize("count", [3, 4, 16, 32, 100])
def test_few_shot_rows_of_record_are_pairs_of_a_passage_and_an_entity(count: int, shared: Path, tmp_path: Path) -> None:
    root = shared / "benchmarks"
    published = reference(root / "super_glue/record/train.parquet", tmp_path)
    pairs = [(row["query"], entity) for row in published for entity in row["entities"]]
    few = load("super_glue/record", root, few_shot=count)
    assert [(row["query"], entity) for row in few.train for entity in row["entities"]] == pairs[:count]
    assert few.train.features == load("super_glue/record", root).train.features
    assert len(few.test) == len(reference(root / "super_glue/record/validation.parquet", tmp_path))


def test_few_shot_beyond_the_pairs_of_record_is_refused(shared: Path) -> None:
    with pytest.raises(UserError, match=r"few_shot asks for 100000 rows, but train has \d{3}; ask for fewer"):
        load("super_glue/record", shared / "benchmarks", few_shot=100_000)


def test_few_shot_beyond_train_is_refused(written: Path) -> None:
    with pytest.raises(UserError, match="few_shot asks for 100 rows, but train has 36"):
        load("super_glue/wsc", written, few_shot=100)


def test_a_source_of_fewer_rows_is_validated_and_tested_on_all(shared: Path) -> None:
    root = shared / "benchmarks"
    whole, few = load("glue/rte", root), load("glue/rte", root, rows_kept=0.05)
    assert len(few.train) == round(0.05 * len(whole.train)) == 112
    assert {row["idx"] for row in few.train} < {row["idx"] for row in whole.train}
    assert {name: rows.to_list() for name, rows in few.splits.items() if name != "train"} == {
        name: rows.to_list() for name, rows in whole.splits.items() if name != "train"
    }
    assert len(load("glue/rte", root, train_rows=300, rows_kept=0.01).train) == 3


@pytest.mark.parametrize("key", ["glue/rte", "glue/stsb"])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_shuffled_labels_change_places_within_the_share_and_keep_their_counts(key: str, share: float, shared: Path) -> None:
    root = shared / "benchmarks"
    whole, shuffled = load(key, root, train_rows=200), load(key, root, train_rows=200, labels_shuffled=share)
    before, after = whole.train.to_list(), shuffled.train.to_list()
    assert [{**row, "label": 0} for row in before] == [{**row, "label": 0} for row in after]
    assert Counter(row["label"] for row in before) == Counter(row["label"] for row in after)
    changed = sum(one["label"] != two["label"] for one, two in zip(before, after, strict=True))
    assert 0.3 * share * 200 < changed <= share * 200
    assert whole.train.features == shuffled.train.features
    assert whole.validation.to_list() == shuffled.validation.to_list()


def test_labels_of_candidates_cannot_be_shuffled(shared: Path) -> None:
    with pytest.raises(UserError, match="labels for each candidate"):
        load("super_glue/record", shared / "benchmarks", labels_shuffled=0.5)


def test_train_shares_of_the_whole_split_are_nested_and_validation_is_drawn_from_them(shared: Path, tmp_path: Path) -> None:
    root = shared / "benchmarks"
    rows = reference(root / "super_glue/copa/train.parquet", tmp_path)
    total, previous = len(rows), {row["idx"] for row in rows}
    for step in range(19, 0, -1):
        size = round(total * step * 0.05)
        rows = rows.train_test_split(train_size=size, shuffle=True, seed=42, stratify_by_column="label")["train"]
        parts = rows.train_test_split(test_size=0.1, shuffle=True, seed=42, stratify_by_column="label")
        ours = load("super_glue/copa", root, train_share=step / 20)
        assert ours.train.to_list() == parts["train"].to_list()
        assert ours.validation.to_list() == parts["test"].to_list()
        chosen = {row["idx"] for each in (ours.train, ours.validation) for row in each}
        assert len(chosen) == size
        assert chosen < previous
        previous = chosen


def test_half_of_rte_has_125_validation_rows(shared: Path) -> None:
    root = shared / "benchmarks"
    half, whole = load("glue/rte", root, train_share=0.5), load("glue/rte", root, train_share=1.0)
    assert (len(half.train), len(half.validation), len(half.test)) == (1245 - 125, 125, 277)
    assert (len(whole.train), len(whole.validation)) == (2241, 249)
    assert whole.train.to_list() == load("glue/rte", root).train.to_list()


def test_share_of_a_task_with_its_own_validation_split_leaves_that_whole(shared: Path) -> None:
    root = shared / "benchmarks"
    half, whole = load("super_glue/record", root, train_share=0.5), load("super_glue/record", root)
    assert len(half.train) == 25
    assert half.validation.to_list() == whole.validation.to_list()


def test_share_leaves_test_rows_that_are_drawn_from_train_as_they_are() -> None:
    half, whole = (load_task(data("domains/apple", train_rows=None, evaluation_rows=None, **more), root=None) for more in SHARES)
    assert half.test.to_list() == whole.test.to_list()
    assert len(half.validation) == -(-round((len(whole.train) + len(whole.validation)) / 2) // 10)


@pytest.mark.parametrize("share", [0.0, 0.03, 1.05, -0.05])
def test_share_off_the_grid_is_refused(share: float, written: Path) -> None:
    with pytest.raises(UserError, match=r"use a multiple of 0\.05"):
        load("super_glue/wsc", written, train_share=share)


def test_caps_keep_the_proportions_of_the_labels(shared: Path) -> None:
    capped = load("glue/cola", shared / "benchmarks", train_rows=1000, evaluation_rows=200)
    whole = load("glue/cola", shared / "benchmarks")
    for name, size in (("train", 1000), ("validation", 200), ("test", 200)):
        labels, all_labels = Counter(capped.splits[name]["label"]), Counter(whole.splits[name]["label"])
        assert labels.total() == size
        assert labels[1] / size == pytest.approx(all_labels[1] / all_labels.total(), abs=1 / size)


def test_caps_beyond_the_rows_take_all(written: Path) -> None:
    splits = load("glue/stsb", written, train_rows=10_000, evaluation_rows=10_000)
    assert {name: len(rows) for name, rows in splits.splits.items()} == {"train": 54, "validation": 6, "test": 20}


def test_caps_apply_to_extra_splits_and_to_queries_of_record(shared: Path) -> None:
    root = shared / "benchmarks"
    assert len(load("glue/mnli", root, evaluation_rows=10).extra["test_mismatched"]) == 10
    assert len(load("super_glue/record", root, train_rows=7).train) == 7


@pytest.mark.parametrize("settings", [{"train_rows": 0}, {"evaluation_rows": 0}])
def test_cap_of_no_rows_is_refused(settings: dict[str, int], written: Path) -> None:
    with pytest.raises(UserError, match="at least one row"):
        load("super_glue/wsc", written, **settings)


def test_class_with_one_row_cannot_be_split_in_proportion() -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["unacceptable", "acceptable"])})
    rows = Dataset.from_dict({"sentence": list("abcdefghijklmnopqrst"), "label": [0] + [1] * 19}, features=features)
    task = get_task("glue/cola")
    sentence = r"glue/cola: cannot draw 10% of 20 rows of train as an evaluation split \(the label 'unacceptable' has one row"
    with pytest.raises(UserError, match=sentence):
        split(task, {"train": rows, "validation": rows}, DataConfig("glue/cola", "test"), task.label_names)


def test_more_classes_than_rows_to_draw_cannot_be_split_in_proportion() -> None:
    names = tuple(f"class {n}" for n in range(10))
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=list(names))})
    rows = Dataset.from_dict({"sentence": ["a"] * 20, "label": [n % 10 for n in range(20)]}, features=features)
    with pytest.raises(UserError, match=r"\(each of its 10 labels needs a row in both parts\); use more rows, or give the split a file"):
        split(get_task("glue/cola"), {"train": rows, "validation": rows}, DataConfig("glue/cola", "test"), names)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), count=st.integers(1, 70))
def test_draw_takes_each_row_once_and_the_same_ones_each_time(labels: list[int], count: int) -> None:
    features = Features({"row": Value("int64"), "label": ClassLabel(num_classes=4)})
    rows = Dataset.from_dict({"row": list(range(len(labels))), "label": labels}, features=features)
    first, again = draw(rows, count, True)["row"][:], draw(rows, count, True)["row"][:]
    assert first == again
    assert len(set(first)) == len(first) == min(count, len(labels))
