"""From rows to token ids, for every kind of task."""

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from scalearn.config import DataConfig
from scalearn.data import TokenisedTask, load_task, tokenised
from scalearn.data.tokenise import _features, _tokenise
from scalearn.tasks import benchmark_tasks, get_task

if TYPE_CHECKING:
    from collections.abc import Iterator

EXCERPTS = [key for key in benchmark_tasks("gsg") if key not in ("glue/stsb", "super_glue/wsc")] + ["super_glue/rte"]
WRITTEN = ["glue/stsb", "super_glue/wsc", *benchmark_tasks("humset")]


def tokens(key: str, root: Path, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> TokenisedTask:
    config = DataConfig(key, "test", **{"max_length": get_task(key).max_length, **settings})
    return tokenised(config, tokenizer, "bytes", root=root, cache=None)


@pytest.mark.parametrize("key", EXCERPTS)
def test_every_excerpt_tokenises(key: str, shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _check(tokens(key, shared / "benchmarks", tokenizer, train_rows=20, evaluation_rows=20))


@pytest.mark.parametrize("key", WRITTEN)
def test_every_written_task_tokenises(key: str, written: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _check(tokens(key, written, tokenizer, train_rows=20, evaluation_rows=10))


def _check(task: TokenisedTask) -> None:
    assert list(task.splits)[:3] == ["train", "validation", "test"]
    for rows in task.splits.values():
        row = rows[0]
        inputs = row["input_ids"] if task.task.kind == "multiple_choice" else [row["input_ids"]]
        assert all(1 < len(ids) <= task.task.max_length for ids in inputs)
        match task.task.head:
            case "classification" | "multiple_choice":
                assert isinstance(row["label"], int)
            case "regression":
                assert isinstance(row["label"], float)
                assert task.num_labels == 1
            case "multi_label":
                assert len(row["label"]) == task.num_labels
                assert set(row["label"]) <= {0.0, 1.0}


def test_pair_is_one_sequence_with_token_types(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = tokens("glue/rte", shared / "benchmarks", tokenizer, train_rows=4, evaluation_rows=4, max_length=2000)
    raw = pa.parquet.read_table(shared / "benchmarks/glue/rte/validation.parquet").to_pylist()
    row = task.splits["test"][0]
    text = tokenizer.decode(row["input_ids"])
    source = next(each for each in raw if text == f"[CLS]{each['sentence1']}[SEP]{each['sentence2']}[SEP]")
    assert row["label"] == source["label"]
    assert sum(row["token_type_ids"]) == len(source["sentence2"].encode()) + 1
    assert set(row["attention_mask"]) == {1}


def test_record_has_one_row_per_entity_grouped_by_query(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = tokens("super_glue/record", shared / "benchmarks", tokenizer, max_length=10_000)
    raw = pa.parquet.read_table(shared / "benchmarks/super_glue/record/validation.parquet").to_pylist()
    rows = task.splits["test"].to_list()
    assert [(row["group"], row["candidate"], row["answers"], row["label"]) for row in rows] == [
        (number, entity, query["answers"], int(entity in query["answers"]))
        for number, query in enumerate(raw)
        for entity in query["entities"]
    ]
    first, second = tokenizer.decode(rows[0]["input_ids"]).removeprefix("[CLS]").removesuffix("[SEP]").split("[SEP]")
    assert first == raw[0]["passage"].replace("@highlight\n", "- ")
    assert second == raw[0]["query"].replace("@placeholder", raw[0]["entities"][0])


def test_record_truncates_only_the_passage(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    longest = 800
    task = tokens("super_glue/record", shared / "benchmarks", tokenizer, max_length=longest, evaluation_rows=5)
    whole = tokens("super_glue/record", shared / "benchmarks", tokenizer, max_length=10_000, evaluation_rows=5)
    cut = 0
    for short, full in zip(task.splits["test"], whole.splits["test"], strict=True):
        cut += len(full["input_ids"]) > longest
        assert len(short["input_ids"]) == min(longest, len(full["input_ids"]))
        query = [sum(row["token_type_ids"]) for row in (short, full)]
        assert query[0] == query[1]
    assert cut > 0


def test_query_longer_than_the_length_is_cut_too(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = tokens("super_glue/record", shared / "benchmarks", tokenizer, max_length=64, train_rows=2, evaluation_rows=3)
    assert max(len(ids) for ids in task.splits["test"]["input_ids"]) == 64


def test_multirc_groups_are_questions(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    settings = {"train_rows": 20, "evaluation_rows": 60}
    task = tokens("super_glue/multirc", shared / "benchmarks", tokenizer, **settings)
    raw = load_task(DataConfig("super_glue/multirc", "test", **settings), root=shared / "benchmarks").test
    assert task.splits["test"]["group"][:] == [f"{row['idx']['paragraph']}-{row['idx']['question']}" for row in raw]
    assert task.splits["test"]["label"][:] == raw["label"][:]


def test_choices_of_copa_are_inputs_of_one_row(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = tokens("super_glue/copa", shared / "benchmarks", tokenizer, max_length=1000)
    raw = pa.parquet.read_table(shared / "benchmarks/super_glue/copa/validation.parquet").to_pylist()
    assert task.num_labels == 1
    for row, source in zip(task.splits["test"], raw, strict=True):
        word = "because" if source["question"] == "cause" else "so"
        texts = [f"[CLS]{source['premise']} {word}[SEP]{source[choice]}[SEP]" for choice in ("choice1", "choice2")]
        assert [tokenizer.decode(ids) for ids in row["input_ids"]] == texts
        assert row["label"] == source["label"]


@pytest.mark.parametrize(("key", "template"), [("super_glue/wic", "question"), ("super_glue/wsc", "named")])
def test_second_template_changes_the_input(
    key: str, template: str, shared: Path, written: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    root = written if key.endswith("wsc") else shared / "benchmarks"
    first, second = (tokens(key, root, tokenizer, template=name, evaluation_rows=3) for name in ("default", template))
    assert first.splits["test"]["label"][:] == second.splits["test"]["label"][:]
    assert first.splits["test"]["input_ids"][:] != second.splits["test"]["input_ids"][:]


def test_expansion_of_record_streams_in_bounded_memory(tokenizer: PreTrainedTokenizerFast) -> None:
    task = get_task("super_glue/record")
    features = Features(
        {"passage": Value("string"), "query": Value("string"), "entities": List(Value("string")), "answers": List(Value("string"))}
    )

    def peak(queries: int) -> int:
        row = {"passage": "word " * 20, "query": "@placeholder won", "entities": [f"E{n}" for n in range(4)], "answers": ["E3"]}
        rows = Dataset.from_list([row] * queries, features=features)
        columns = _features(task, tokenizer, task.label_names)
        tables: Iterator[pa.Table] = _tokenise(
            task, rows, tokenizer, DataConfig(task.key, "test", max_length=256), columns, task.label_names
        )
        tracemalloc.start()
        count = sum(len(table) for table in tables)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == queries * 4
        return most

    small, large = peak(512), peak(2560)
    assert large < 1.5 * small, f"{small} bytes for 512 queries, {large} for 2560"
