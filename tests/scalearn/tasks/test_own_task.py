"""One's own tasks: what a definition may say, and rows from CSV, JSONL and parquet."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from scalearn.config import DataConfig
from scalearn.data import load_task, tokenised
from scalearn.errors import UserError
from scalearn.tasks import definition_of, own_task, task_of
from scalearn.tasks.origin import data_origin


def data(key: str, definition: dict[str, Any], root: Path) -> DataConfig:
    task = own_task(key, definition)
    return DataConfig(key, data_origin(task, root), own=definition_of(task))


def test_csv_with_named_labels_is_split_and_numbered(tmp_path: Path) -> None:
    _text(
        tmp_path / "mine/spam/train.csv",
        "subject,body,verdict\n" + "".join(f'"s, {n}","line one\nline two",{"spam" if n % 4 else "ham"}\n' for n in range(40)),
    )
    config = data("mine/spam", {"columns": ["subject", "body"], "label": "verdict", "splits": {"validation": None, "test": None}}, tmp_path)
    splits = load_task(config, root=tmp_path)
    assert splits.label_names == ("ham", "spam")
    assert {name: len(rows) for name, rows in splits.splits.items()} == {"train": 28, "validation": 4, "test": 8}
    assert splits.train[0]["body"] == "line one\nline two"
    assert all(row["label"] == (row["subject"] not in {f"s, {n}" for n in range(0, 40, 4)}) for row in splits.train)


def test_jsonl_with_lists_of_labels_is_multi_label(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"text": f"row {n}", "topics": [["sport"], ["sport", "money"], []][n % 3]} for n in range(12)]
    for split in ("train", "validation", "test"):
        _text(tmp_path / f"mine/topics/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    config = data("mine/topics", {"columns": "text", "label": "topics", "kind": "multi_label"}, tmp_path)
    task = tokenised(config, tokenizer, "bytes", root=tmp_path, cache=None)
    assert task.num_labels == 2
    assert task.label_names == ("money", "sport")
    assert [row["label"] for row in task.splits["test"].select(range(3))] == [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


def test_regression_reads_numbers(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _text(tmp_path / "mine/stars/train.tsv", "review\tstars\n" + "".join(f"review {n}\t{n % 5}\n" for n in range(20)))
    definition = {"columns": "review", "label": "stars", "kind": "regression", "splits": {"validation": None, "test": None}}
    task = tokenised(data("mine/stars", definition, tmp_path), tokenizer, "bytes", root=tmp_path, cache=None)
    assert task.num_labels == 1
    assert {row["label"] for row in task.splits["train"]} <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_numeric_classes_keep_their_values(tmp_path: Path) -> None:
    _text(tmp_path / "mine/stars/train.csv", "review,stars\n" + "".join(f"review {n},{n % 5 + 1}\n" for n in range(100)))
    splits = load_task(
        data("mine/stars", {"columns": "review", "label": "stars", "splits": {"validation": None, "test": None}}, tmp_path), root=tmp_path
    )
    assert splits.label_names == ("1", "2", "3", "4", "5")
    assert all(row["label"] == int(row["review"].split()[1]) % 5 for row in splits.train)


def test_multiple_choice_gives_one_input_per_choice(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _text(tmp_path / "mine/quiz/train.csv", "q,a,b,c,right\n" + "".join(f"q{n}?,x{n},y{n},z{n},{'abc'[n % 3]}\n" for n in range(30)))
    definition = {
        "columns": "q",
        "choices": ["a", "b", "c"],
        "label": "right",
        "kind": "multiple_choice",
        "splits": {"validation": None, "test": None},
    }
    task = tokenised(data("mine/quiz", definition, tmp_path), tokenizer, "bytes", root=tmp_path, cache=None)
    row = task.splits["train"][0]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in row["input_ids"]]
    number = int(texts[0].split("?")[0][1:])
    assert texts == [f"q{number}?{letter}{number}" for letter in "xyz"]
    assert row["label"] == number % 3


ODD_NAMES = [
    "review.text",
    "0",
    "a: b",
    "text!r",
    "words[0]",
    "{text}",
    "a}b{",
    'so "called"',
    '"',
    "  spaced out ",
    "Ünïcode 日本",
    "choice",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_any_name_of_a_column_can_be_given_bare_or_in_a_format(name: str, ending: str, tmp_path: Path) -> None:
    rows = [{name: f"text {n}", f"{name} too": "xy"[n % 2]} for n in range(20)]
    file = tmp_path / f"mine/odd/train.{ending}"
    file.parent.mkdir(parents=True)
    with file.open("w", newline="") as stream:
        if ending == "csv":
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    quoted = '{"' + name.replace('"', '""') + '"}'
    bare = {} if set(name) & set("{}") else {name: "text 7"}
    for columns, expected in {**bare, quoted: "text 7", f"{{{{{quoted}}}}}: !": "{text 7}: !"}.items():
        definition = {"columns": columns, "label": f"{name} too", "splits": {"validation": None, "test": None}}
        task = own_task("mine/odd", definition)
        assert task.columns == (name,)
        config = DataConfig("mine/odd", data_origin(task, tmp_path), own=definition_of(task))
        splits = load_task(config, root=tmp_path)
        assert sum(map(len, splits.splits.values())) == 20
        texts = {task.template("default").render(row)[0]: row["label"] for rows in splits.splits.values() for row in rows}
        assert texts[expected] == 1


def test_column_named_by_a_number_is_its_name() -> None:
    assert own_task("mine/t", {"columns": [0, 10], "label": 1}) == own_task("mine/t", {"columns": [0, 10], "label": 1})
    task = own_task("mine/t", {"columns": [0, 10], "label": 1})
    assert (task.columns, task.label_column) == (("0", "10"), "1")
    assert task.template("default").render({"0": "a", "10": "b"}) == ("a", "b")


def test_choices_with_odd_names_are_rendered_after_both_columns() -> None:
    definition = {"columns": ["a.b", "c"], "choices": ["1.", "2."], "kind": "multiple_choice", "label": "right"}
    task = own_task("mine/quiz", definition)
    assert (task.columns, task.choices) == (("a.b", "c"), ("1.", "2."))
    assert task.template("default").render({"a.b": "x", "c": "y", "choice": "z"}) == ("x y", "z")


@pytest.mark.parametrize(
    "split",
    [
        *(
            "../other/train",
            "/etc/passwd",
            "folder/train",
            "..",
            ".hidden",
            "back\\slash",
            "nul\0l",
            "line\nfeed",
            "",
            "x" * 201,
            "é" * 101,
        ),
        *(1, True, ["train"], {"a": 1}, "\ud800"),
    ],
)
@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_split_is_the_name_of_a_file_and_no_place(split: object, role: str) -> None:
    with pytest.raises(UserError) as caught:
        own_task("mine/t", {"columns": "text", "splits": {role: split}})
    assert f"the {role} split is " in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("split", ["train-00000-of-00001", "dev set (2)", "Übung", "train.v2", "x" * 200])
def test_split_may_have_any_name_that_a_file_has(split: str) -> None:
    assert own_task("mine/t", {"columns": "text", "splits": {"train": split}}).splits.train == split


def test_definition_is_part_of_the_job_and_of_the_origin_but_its_key_order_is_not(tmp_path: Path) -> None:
    _text(tmp_path / "mine/spam/train.csv", "a,b,label\n1,2,x\n")
    splits = {"validation": None, "test": None}
    first = data("mine/spam", {"columns": ["a"], "splits": splits}, tmp_path)
    same = data("mine/spam", {"splits": splits, "columns": ("a",)}, tmp_path)
    other = data("mine/spam", {"columns": ["b"], "splits": splits}, tmp_path)
    assert first == same
    assert first.origin != other.origin
    assert task_of(first) == own_task("mine/spam", {"columns": ["a"], "splits": splits})


def test_absent_test_split_says_how_to_draw_one(tmp_path: Path) -> None:
    _text(tmp_path / "mine/spam/train.csv", "text,label\nx,y\n")
    _text(tmp_path / "mine/spam/validation.csv", "text,label\nx,y\n")
    with pytest.raises(UserError, match=r"mine/spam has no split 'test' in .*set the split to null"):
        data("mine/spam", {"columns": "text"}, tmp_path)


@pytest.mark.parametrize(
    ("definition", "sentence"),
    [
        ({"colums": "text"}, "Unknown key 'colums' in the definition of task mine/t; did you mean 'columns'"),
        ({}, "columns names 0 text columns"),
        ({"columns": ["a", "b", "c"]}, "columns names 3 text columns"),
        ({"columns": "text", "kind": "sequence"}, "Unknown kind 'sequence'"),
        ({"columns": "text", "metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"columns": "text", "metric": "pearson"}, "Unknown metric of kind classification 'pearson'"),
        ({"columns": "text", "kind": "multiple_choice"}, "multiple_choice needs choices"),
        ({"columns": "text", "choices": ["a", "b"]}, "others take none"),
        ({"columns": "text", "kind": "regression", "labels": ["a"]}, "labels has no meaning"),
        ({"columns": "text", "splits": {"dev": "x"}}, "Unknown split 'dev'"),
        ({"columns": "text", "splits": {"train": None}}, "the train split is None"),
        ({"columns": "text", "splits": "train"}, "give a mapping"),
        ({"columns": "{a} {", "label": "x"}, "no format string"),
        ({"columns": "{a.__class__}"}, "name columns in braces"),
        ({"columns": "{a:>20000000}"}, "no format string from '{a:>20000000}' on"),
        ({"columns": "{a:{a.__class__}}"}, "no format string from '{a:{a.__class__}}' on"),
        ({"columns": "{b} {a!r}"}, "no format string from '{a!r}' on"),
        ({"columns": "{a[0]}"}, "name columns in braces"),
        ({"columns": "{{a}}"}, "name columns in braces"),
        ({"columns": "{}"}, "no format string"),
        ({"columns": "a}"}, "no format string"),
        ({"columns": '{"a}'}, "no format string"),
        ({"columns": "{" * 5001}, "no format string"),
        ({"columns": True}, "columns is True; give the name of a column"),
        ({"columns": 1.5}, "columns is 1.5; give the name of a column"),
        ({"columns": None}, "columns is None; give the name of a column"),
        ({"columns": {"a": "b"}}, "columns is {'a': 'b'}; give the name of a column"),
        ({"columns": [["a"]]}, "columns is [['a']]; give the name of a column"),
        ({"columns": [0, "0"]}, "different names"),
        ({"columns": "text", "label": ["a"]}, "label is ['a']; give the name of one column"),
        ({"columns": "text", "label": None}, "label is None; give the name of one column"),
        ({"columns": "text", "label": True}, "label is True; give the name of one column"),
        ({"columns": "text", "label": ""}, "label is ''; give the name of one column"),
        ({"columns": "text", "label": "text"}, "'text' is a text column, but rows keep their label under that name"),
        ({"columns": "label", "label": "verdict"}, "'label' is a text column, but rows keep their label under that name"),
        ({"columns": ["a", "a"]}, "different names"),
        ({"columns": "text", "labels": [0, 1, "1"]}, "labels is [0, 1, '1']; give one name or a list of different names"),
        ({"columns": "text", "labels": [0.5, 1]}, "labels is [0.5, 1]; give one name or a list of different names, in quotes where YAML"),
        ({"columns": "text", "labels": ["pos", " "]}, "labels is ['pos', ' ']; give one name"),
        ({"columns": "text", "max_length": "long"}, "give a number of tokens"),
    ],
)
def test_wrong_definition_is_one_sentence(definition: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        own_task("mine/t", definition)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["mine", "mine/", "/t", "a/b/c"])
def test_key_needs_benchmark_and_name(key: str) -> None:
    with pytest.raises(UserError, match="benchmark/task"):
        own_task(key, {"columns": "text"})


def _text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
