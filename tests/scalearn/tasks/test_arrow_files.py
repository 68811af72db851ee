"""Parquet files as programs write them: any type that has a text will do, and what has none is one sentence, in the plan and in the job."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.data.split import TaskSplits
from scalearn.errors import UserError
from scalearn.tasks import definition_of, own_task
from scalearn.tasks.local_labels import local_warnings
from scalearn.tasks.origin import data_origin

ROWS = 40
TEXTS = [f"text {n}" for n in range(ROWS)]
LABELS = [("neg", "pos")[n % 2] for n in range(ROWS)]
DRAWN = {"validation": None, "test": None}
DAMAGED = [b"caf\xe9" if n == 7 else b"tea" for n in range(ROWS)]


def read(root: Path, table: pa.Table, **definition: Any) -> tuple[tuple[str, ...], TaskSplits]:
    """What the plan says of a train file, and what the job reads of it."""
    (tmp := root / "mine/t").mkdir(parents=True)
    pq.write_table(table, tmp / "train.parquet")
    return job(root, **definition)


def job(root: Path, **definition: Any) -> tuple[tuple[str, ...], TaskSplits]:
    task = own_task("mine/t", {"columns": "text", "splits": DRAWN, **definition})
    config = DataConfig("mine/t", data_origin(task, root), own=definition_of(task))
    return local_warnings(task, root), load_task(config, root=root)


def table(texts: Any = TEXTS, labels: Any = LABELS, **more: Any) -> pa.Table:
    return pa.table({"text": texts, "label": labels, **more})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array(TEXTS).dictionary_encode(), TEXTS),
        (pa.array([text.encode() for text in TEXTS]), TEXTS),
        (pa.array([text.encode().ljust(8) for text in TEXTS], pa.binary(8)), [text.ljust(8) for text in TEXTS]),
        (pa.array(TEXTS, pa.large_string()).dictionary_encode(), TEXTS),
        (pa.array(TEXTS, pa.json_(pa.string())), TEXTS),
        (pa.array([date(2020, 1, 1 + n % 30) for n in range(ROWS)]), [f"2020-01-{1 + n % 30:02}" for n in range(ROWS)]),
        (pa.array([Decimal(n) / 10 for n in range(ROWS)], pa.decimal128(4, 2)), [f"{n / 10:.2f}" for n in range(ROWS)]),
    ],
)
def test_text_of_any_type_is_read(column: pa.Array, values: list[str], tmp_path: Path) -> None:
    said, splits = read(tmp_path, table(column))
    assert said == ()
    assert sorted(row["text"] for rows in splits.splits.values() for row in rows) == sorted(values)


@pytest.mark.parametrize(
    "more",
    [
        pa.array([b"0123456789abcdef"] * ROWS, pa.uuid()),
        pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
        pa.array([b"caf\xe9"] * ROWS, pa.binary(4)),
        pa.array([["a"]] * ROWS, pa.list_view(pa.string())),
        pa.array(pd.period_range("2020", periods=ROWS)),
    ],
)
def test_columns_that_an_own_task_does_not_read_may_have_any_type(more: pa.Array, tmp_path: Path) -> None:
    assert read(tmp_path, table(more=more))[1].label_names == ("neg", "pos")


def test_columns_that_an_own_task_does_not_read_may_share_a_name(tmp_path: Path) -> None:
    columns = {"x": TEXTS, "label.more": TEXTS, "text": TEXTS, "label": LABELS, "x ": TEXTS}
    said, splits = read(tmp_path, pa.table(columns).rename_columns([name.strip() for name in columns]))
    assert said == ()
    assert splits.label_names == ("neg", "pos")


LISTS = [[LABELS[n], "all"] for n in range(ROWS)]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2), pa.list_view(pa.string()), pa.list_(pa.binary())]
)
def test_lists_of_labels_of_any_type_are_classes(kind: pa.DataType, tmp_path: Path) -> None:
    said, splits = read(tmp_path, table(labels=pa.array(LISTS, kind)), kind="multi_label")
    assert said == ()
    assert splits.label_names == ("all", "neg", "pos")
    assert all({splits.label_names[number] for number in row["label"]} == set(LISTS[int(row["text"].split()[1])]) for row in splits.train)


def test_column_of_dates_and_times_is_a_label(tmp_path: Path) -> None:
    days = pa.array([datetime(2020, 1, 1 + n % 2) for n in range(ROWS)], pa.timestamp("us"))
    assert read(tmp_path, table(labels=days))[1].label_names == ("2020-01-01 00:00:00.000000", "2020-01-02 00:00:00.000000")


def test_whole_number_beyond_float32_is_rounded_as_from_a_text_file(tmp_path: Path) -> None:
    splits = read(tmp_path, table(labels=[2**53 + 1 - n for n in range(ROWS)]), kind="regression")[1]
    assert splits.train["label"][0] == pytest.approx(2**53)


@pytest.mark.parametrize(
    ("wrong", "definition", "sentence"),
    [
        (table(pa.array(DAMAGED)), {}, "row 7: byte 0xE9 in its column 'text' is not UTF-8"),
        (table(pa.array(DAMAGED).view(pa.string())), {}, "row 7: byte 0xE9 in its column 'text' is not UTF-8"),
        (table(pa.array(DAMAGED).dictionary_encode()), {}, "row 7: byte 0xE9 in its column 'text' is not UTF-8"),
        (table(pa.nulls(ROWS)), {}, "row 0: column 'text' is null"),
        (table(pa.array([{"a": "b"}] * ROWS)), {}, "column 'text' of"),
        (pa.table([TEXTS, LABELS, TEXTS], ["text", "label", "text"]), {}, "train.parquet has 2 columns named 'text'"),
    ],
)
def test_text_that_is_none_is_one_sentence(wrong: pa.Table, definition: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, wrong, **definition)
    assert sentence in str(caught.value)
    assert "train.parquet" in str(caught.value)


MANY = {"kind": "multi_label"}


@pytest.mark.parametrize(
    ("labels", "definition", "sentence"),
    [
        (pa.array(DAMAGED), {}, "row 7: byte 0xE9 in its column 'label' is not UTF-8"),
        (pa.array(DAMAGED).view(pa.string()), {}, "row 7: byte 0xE9 in its column 'label' is not UTF-8"),
        (pa.array([[b"a", each] for each in DAMAGED]), MANY, "row 7: byte 0xE9 in its column 'label' is not UTF-8"),
        (pa.array([{"a": "b"}] * ROWS), {}, "column 'label' holds struct<a: string>; give a text, a number or a list of such"),
        (pa.array([[{"a": "b"}]] * ROWS), MANY, "column 'label' holds struct<a: string>; give a text, a number or a list of such"),
        (pa.array([[["a"]]] * ROWS), MANY, "column 'label' holds list<element: string>; give a text"),
    ],
)
def test_label_that_has_no_text_is_one_sentence_in_plan_and_job(
    labels: pa.Array, definition: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, table(labels=labels), **definition)
    assert sentence in str(caught.value)
    assert "train.parquet" in str(caught.value)
    assert local_warnings(own_task("mine/t", {"columns": "text", "splits": DRAWN, **definition}), tmp_path) == (str(caught.value),)


def test_row_of_a_damaged_label_is_counted_over_the_whole_file(tmp_path: Path) -> None:
    rows = 70_000
    labels = pa.array([[b"a", b"b"]] * (rows - 1) + [[b"\xe9"]])
    with pytest.raises(UserError, match=f"row {rows - 1}: byte 0xE9"):
        read(tmp_path, table(["text"] * rows, labels), kind="multi_label")
    (sentence,) = local_warnings(own_task("mine/t", {"columns": "text", "splits": DRAWN, "kind": "multi_label"}), tmp_path)
    assert f"row {rows - 1}: byte 0xE9" in sentence


def test_what_is_no_number_in_a_list_of_labels_is_no_class(tmp_path: Path) -> None:
    labels = pa.array([[1.0, float("nan")] if n == 5 else [float(n % 2)] for n in range(ROWS)])
    with pytest.raises(UserError, match=r"train\.parquet, row 5: a label is null"):
        read(tmp_path, table(labels=labels), kind="multi_label")


def test_plan_names_the_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t/train.parquet").write_text("text,label\na,b\n")
    (sentence,) = local_warnings(own_task("mine/t", {"columns": "text", "splits": DRAWN}), tmp_path)
    assert "Task mine/t: " in sentence
    assert "train.parquet is broken or not in its format (Parquet magic bytes not found" in sentence
