"""Rows and tokens of what lies on disk: as a job reads them, in every format, and from the beginning of a large file."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset

from orchestrator.cli import main
from orchestrator.scheduling import local_rows
from orchestrator.scheduling.task_sizes import SIZES, Size, size_of
from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.tasks import definition_of, own_task
from scalearn.tasks.origin import data_origin

DRAWN = {"validation": None, "test": None}


def _csv(rows: list[dict[str, Any]], place: Path, delimiter: str = ",") -> None:
    with place.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[list[dict[str, Any]], Path], object]] = {
    "csv": _csv,
    "tsv": lambda rows, place: _csv(rows, place, "\t"),
    "jsonl": lambda rows, place: place.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "json": lambda rows, place: place.write_text("\n\n".join(map(json.dumps, rows))),
    "parquet": lambda rows, place: pyarrow.parquet.write_table(pa.Table.from_pylist(rows), place, row_group_size=64),
    "": lambda rows, place: Dataset.from_list(rows).save_to_disk(str(place), num_shards=2),
}


def write(rows: list[dict[str, Any]], root: Path, name: str, ending: str) -> None:
    directory = root / "mine/task"
    directory.mkdir(parents=True, exist_ok=True)
    WRITERS[ending](rows, directory / (f"{name}.{ending}" if ending else name))


def config(root: Path, definition: dict[str, Any], **limits: Any) -> DataConfig:
    task = own_task("mine/task", definition)
    return DataConfig("mine/task", data_origin(task, root), own=definition_of(task), **limits)


def read(data: DataConfig, root: Path) -> tuple[int, int, int]:
    splits = load_task(data, root=root)
    return len(splits.train), len(splits.validation), len(splits.test)


def sized(size: Size) -> tuple[int, int, int]:
    return size.train, size.validation, size.test


ROWS = [{"review.text": f"the {'long ' * (n % 7)}film, number {n}\nwas it?", "label": "ny"[n % 2]} for n in range(173)]


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("splits", [DRAWN, {"test": None}, {}])
def test_own_files_are_counted_as_a_job_reads_them(ending: str, splits: dict[str, None], tmp_path: Path) -> None:
    rows = [{**row, "review.text": row["review.text"].replace("\n", " ")} for row in ROWS] if ending == "tsv" else ROWS
    write(rows, tmp_path, "train", ending)
    for name in {"validation", "test"} - splits.keys():
        write(rows[:60], tmp_path, name, ending)
    for limits in ({}, {"train_rows": 30, "evaluation_rows": 11}, {"train_share": 0.5}, {"few_shot": 4}):
        data = config(tmp_path, {"columns": "review.text", "splits": splits}, **limits)
        assert sized(size_of(data, tmp_path)) == read(data, tmp_path)
    size = size_of(config(tmp_path, {"columns": "review.text", "splits": splits}, max_length=24), tmp_path)
    assert size.length == pytest.approx(2 + 8 + sum(n % 7 for n in range(173)) / 173, abs=0.6)  # nine words and signs, or so
    assert size.padded in (16, 24)


def test_lengths_are_cut_at_the_maximum_length_and_choices_are_inputs_of_their_own(tmp_path: Path) -> None:
    rows = [{"q": "why " * 20, "a": "because " * (n % 3 + 1), "b": "so", "right": "a"} for n in range(60)]
    write(rows, tmp_path, "train", "csv")
    definition = {"columns": "q", "choices": ["a", "b"], "kind": "multiple_choice", "label": "right", "splits": DRAWN}
    size = size_of(config(tmp_path, definition, max_length=64), tmp_path)
    assert (size.inputs, size.length) == (2, pytest.approx(3 + 20 + 1.5))
    assert size_of(config(tmp_path, definition, max_length=16), tmp_path).length == 16


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_large_text_file_is_reckoned_from_its_beginning(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_rows, "READ_BYTES", 1 << 16)
    rows = [{"text": f"number {n:05} is one of many", "label": "ny"[n % 2]} for n in range(20_000)]
    write(rows, tmp_path, "train", ending)
    data = config(tmp_path, {"columns": "text", "splits": DRAWN})
    found = local_rows.local_rows(data, tmp_path)
    assert found is not None
    assert not found.counted
    assert found.rows["train"] == pytest.approx(20_000, rel=0.02)
    assert size_of(data, tmp_path).train == pytest.approx(14_400, rel=0.02)


def test_array_of_objects_is_counted_also_where_its_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"row {n:04}, [or] so", "label": "ny"[n % 2]} for n in range(3000)]
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/train.json").write_text(json.dumps(rows, indent=1))
    data = config(tmp_path, {"columns": "text", "splits": DRAWN})
    assert size_of(data, tmp_path).train == 2160
    monkeypatch.setattr(local_rows, "READ_BYTES", 1 << 15)
    assert size_of(config(tmp_path, {"columns": "text", "splits": DRAWN, "max_length": 64}), tmp_path).train == pytest.approx(
        2160, rel=0.05
    )


@pytest.mark.parametrize("content", [b"", b"\0\xff" * 500, b"text,label\n", b'"' * 300_000, b"[" * 100_000, b'{"a":' * 100_000])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_broken_file_leaves_a_guess(content: bytes, ending: str, tmp_path: Path) -> None:
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / f"mine/task/train.{ending}").write_bytes(content)
    size = size_of(config(tmp_path, {"columns": "text", "splits": DRAWN}), tmp_path)
    assert size.train >= 1
    assert size.length <= 128


def test_published_task_in_a_data_root_has_the_rows_of_its_files(tmp_path: Path) -> None:
    directory = tmp_path / "glue/rte"
    directory.mkdir(parents=True)
    for split, count in (("train", 200), ("validation", 30)):
        table = pa.table({"sentence1": ["one two three"] * count, "sentence2": ["four"] * count, "label": [0, 1] * (count // 2)})
        pyarrow.parquet.write_table(table, directory / f"{split}.parquet")
    data = DataConfig("glue/rte", "files:sha256-0")
    assert size_of(data, tmp_path) == Size(180, 20, 30, 7.0, 8)
    assert size_of(DataConfig("glue/rte", "hub:nyu-mll/glue@x"), None) == SIZES["glue/rte"]


def test_task_of_candidates_counts_every_candidate(tmp_path: Path) -> None:
    directory = tmp_path / "super_glue/record"
    directory.mkdir(parents=True)
    row: dict[str, Any] = {"passage": "A and B. @highlight C", "query": "@placeholder won.", "entities": ["A", "B", "C"], "answers": ["A"]}
    row = {**row, "idx": {"passage": 0, "query": 0}}
    for split, count in (("train", 50), ("validation", 10)):
        pyarrow.parquet.write_table(pa.Table.from_pylist([row] * count), directory / f"{split}.parquet")
    assert sized(size_of(DataConfig("super_glue/record", "files:sha256-1"), tmp_path)) == (150, 30, 30)
    assert sized(size_of(DataConfig("super_glue/record", "files:sha256-1", train_rows=10), tmp_path))[0] == 30


OWN = """
name: own
benchmark: mine
backbone: minilm
data: {root: data}
tasks: {a: {columns: text, splits: {validation: null, test: null}}, b: {columns: text, splits: {validation: null, test: null}}}
methods: {scalearn: {}}
"""


def test_plan_of_own_files_takes_their_size_and_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    seconds = []
    for count in (300, 3000):
        for name in "ab":
            Path(f"data/mine/{name}").mkdir(parents=True, exist_ok=True)
            _csv([{"text": f"number {n} of many", "label": "ny"[n % 2]} for n in range(count)], Path(f"data/mine/{name}/train.csv"))
        assert main(["plan", "own.yaml", "--gpus", "1", "--json"]) == 0
        forecast = json.loads(capsys.readouterr().out)["forecast"]
        seconds.append(forecast["seconds"])
        first = forecast["assumed"][0]
        assert (first["task"], first["train"], first["counted"]) == ("mine/a", round(0.72 * count), True)
    assert seconds[1] > 2 * seconds[0]
    assert main(["plan", "own.yaml", "--gpus", "1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine/b"))
    assert line.startswith("mine/b: 2,160 training, 240 validation and 600 test rows of about 6 tokens, counted in ")
    assert line.endswith("data/mine/b")
