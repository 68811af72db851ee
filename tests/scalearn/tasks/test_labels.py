"""Labels are matched by their text, and everything that a job leaves calls the classes as the file does."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adapters import AutoAdapterModel
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

import scalearn
from scalearn.config import DataConfig
from scalearn.data import load_task, tokenised
from scalearn.data.split import TaskSplits
from scalearn.errors import UserError
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import LoadedBackbone, load_backbone, load_model
from scalearn.passes.metrics import evaluate
from scalearn.tasks import definition_of, own_task
from scalearn.tasks.labels import class_numbers, compared, found_names
from scalearn.tasks.origin import data_origin
from scalearn.training.loop import Runtime
from tests.scalearn.helpers.small import job, save_backbone

DRAWN = {"validation": None, "test": None}
Labels = list[str]


def write(directory: Path, labels: Labels, split: str = "train") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{split}.csv").write_text("text,label\n" + "".join(f"{n} says {label},{label}\n" for n, label in enumerate(labels)))
    return directory


def config_of(root: Path, key: str = "mine/t", **definition: Any) -> DataConfig:
    task = own_task(key, {"columns": "text", "splits": DRAWN, **definition})
    return DataConfig(key, data_origin(task, root), max_length=24, own=definition_of(task))


def load(root: Path, **definition: Any) -> TaskSplits:
    return load_task(config_of(root, **definition), root=root)


@pytest.mark.parametrize(
    ("labels", "declared", "names"),
    [
        (["1", "2", "3", "unknown"], None, ("1", "2", "3", "unknown")),
        (["1", "2", "3", "unknown"], ["unknown", 1, 2, 3], ("unknown", "1", "2", "3")),
        (["10", "9", "-2"], None, ("-2", "9", "10")),
        (["0.0", "1.0"], None, ("0", "1")),
        (["0.0", "1.0"], [1, 0], ("1", "0")),
        (["0.5", "1.0"], None, ("0.5", "1")),
        (["01", "1"], None, ("01", "1")),
        (["true", "false"], ["true", "false"], ("true", "false")),
        (["TRUE", "FALSE"], [False, True], ("False", "True")),
        (["True", "False"], None, ("False", "True")),
        (["-1", "0", "1"], [-1, 0, 1], ("-1", "0", "1")),
        (["-1", "0", "1"], [1, 0, -1], ("1", "0", "-1")),
        (["-2", "0", "2"], None, ("-2", "0", "2")),
        (["-0.0", "0.0", "1.0"], None, ("0", "1")),
        (["cafe\u0301", "caf\u00e9", "tea"], None, ("caf\u00e9", "tea")),
        (["cafe\u0301", "tea"], ["tea", "caf\u00e9"], ("tea", "caf\u00e9")),
    ],
)
def test_label_is_matched_by_its_text(labels: Labels, declared: list[Any] | None, names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path / "mine/t", labels * 20)
    splits = load(tmp_path, **({} if declared is None else {"labels": declared}))
    assert splits.label_names == names
    rows = [row for each in splits.splits.values() for row in each]
    assert len(rows) == 20 * len(labels)
    assert all(compared(row["text"].split()[-1]) == compared(names[row["label"]]) for row in rows)


def test_split_whose_labels_look_otherwise_means_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "mine/t", ["1", "2", "3", "unknown"] * 10)
    write(tmp_path / "mine/t", ["3", "2", "1"], "validation")
    write(tmp_path / "mine/t", ["1.0", "3.0"], "test")
    splits = load(tmp_path, splits={})
    assert splits.validation["label"][:] == [2, 1, 0]
    assert splits.test["label"][:] == [0, 2]


def test_numbers_count_the_declared_names_unless_a_name_is_a_number(tmp_path: Path) -> None:
    write(tmp_path / "mine/t", ["0", "1"] * 20)
    splits = load(tmp_path, labels=["neg", "pos"])
    assert all(row["label"] == int(row["text"].split()[-1]) for row in splits.train)
    with pytest.raises(UserError, match="row 0: the label '0' is none of 1, none"):
        load(tmp_path, labels=["1", "none"])
    with pytest.raises(UserError, match="row 0: the label '0' is none of true, false"):
        load(tmp_path, labels=["true", "false"])


def test_numbers_count_no_names_that_were_merely_found(tmp_path: Path) -> None:
    write(tmp_path / "mine/t", ["neg", "pos"] * 20)
    write(tmp_path / "mine/t", ["0", "1"], "validation")
    with pytest.raises(UserError, match=r"validation\.csv, row 0: the label '0' is none of neg, pos"):
        load(tmp_path, splits={"test": None})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array([0, 1] * 20), ("0", "1")),
        (pa.array([0.0, 1.0] * 20), ("0", "1")),
        (pa.array([False, True] * 20), ("false", "true")),
        (pa.array(["a", "b"] * 20, pa.large_string()), ("a", "b")),
        (pa.array(["a", "b"] * 20).dictionary_encode(), ("a", "b")),
        (pa.array([-1, 1] * 20), ("-1", "1")),
    ],
)
def test_parquet_labels_of_any_type_are_classes(labels: pa.Array, names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    pq.write_table(pa.table({"text": [f"text {n % 2}" for n in range(40)], "label": labels}), tmp_path / "mine/t/train.parquet")
    splits = load(tmp_path)
    assert splits.label_names == names
    assert all(row["label"] == int(row["text"].split()[-1]) for row in splits.train)


def test_minus_one_is_hidden_in_glue_as_text_too(tmp_path: Path) -> None:
    rows = [{"sentence": f"row {n}", "label": n % 2} for n in range(40)]
    (tmp_path / "glue/cola").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(tmp_path / "glue/cola/train.csv", index=False)
    pd.DataFrame([*rows, {"sentence": "hidden", "label": -1}]).to_csv(tmp_path / "glue/cola/validation.csv", index=False)
    with pytest.raises(UserError, match=r"validation\.csv, row 40: the label is -1, which stands for a hidden label"):
        load_task(DataConfig("glue/cola", "test"), root=tmp_path)


@pytest.mark.parametrize(
    ("labels", "definition", "sentence"),
    [
        (["", "pos"], {}, r"row 0: the label in column 'label' is empty"),
        (["neg", " "], {}, r"row 1: the label in column 'label' is empty"),
        (["0.5", ""], {"kind": "regression"}, r"row 1: the label in column 'label' is empty"),
        (["0.5", "n/a"], {"kind": "regression"}, r"row 1: the label 'n/a' is no number"),
        (["0.5", "nan"], {"kind": "regression"}, r"row 1: the label is not a finite number"),
        (["pos ", "neg"], {"labels": ["pos", "neg"]}, r"row 0: the label 'pos ' is none of pos, neg"),
        (["neg", "pos"], {"labels": ["pos", "neg "]}, r"row 0: the label 'neg' is none of pos, 'neg '"),
        (["0.5", "1_5"], {"kind": "regression"}, r"row 1: the label '1_5' is no number"),
        (
            ["x" * 9999, "y"],
            {"labels": [f"c{n}" for n in range(5000)]},
            r"the label 'x{50,99}\.\.\. is none of c0, .* c19 and 4980 more\.$",
        ),
    ],
)
def test_label_that_is_none_is_refused_with_its_row(labels: Labels, definition: Mapping[str, Any], sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "mine/t", labels * 10)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path, **definition)


@pytest.mark.parametrize(("labels", "sentence"), [(["x", ""], "is empty"), (["x", None], "a label is null")])
def test_label_in_a_list_that_is_none_is_refused(labels: list[Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t/train.jsonl").write_text(
        (json.dumps({"text": "a", "label": ["x"]}) + "\n") * 4 + json.dumps({"text": "a", "label": labels})
    )
    with pytest.raises(UserError, match=rf"row 4: .*{sentence}"):
        load(tmp_path, kind="multi_label")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["pos"], "every label of train is 'pos'"),
        (["pos", "pos ", "neg"], "the labels 'pos', 'pos ' of train are classes of their own"),
        (["Pos", "neg", "pos"], "the labels 'Pos', 'pos' of train are classes of their own"),
        (["pos", "neg", "pos\u200b"], r"the labels 'pos', 'pos\\u200b' of train are classes of their own"),
        (["0.5", "1", "0.50"], "the labels '0.5', '0.50' of train are classes of their own"),
    ],
)
def test_suspicious_labels_are_warned_of_cached_tokens_or_not(
    labels: Labels, words: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "mine/t", labels * 20)
    for _ in range(2):
        with pytest.warns(UserWarning, match=words):
            task = tokenised(config_of(tmp_path), tokenizer, "bytes", root=tmp_path, cache=tmp_path / "cache")
        assert [re.search(words, sentence) is not None for sentence in task.warnings] == [True]


def test_labels_that_a_definition_tells_apart_are_not_warned_of(tmp_path: Path) -> None:
    write(tmp_path / "mine/t", ["a", "A"] * 20)
    assert load(tmp_path, labels=["a", "A"]).warnings == ()
    assert load(tmp_path).warnings


def test_class_that_no_train_row_of_a_multi_label_task_has_is_none(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    features = Features({"excerpt": Value("string"), "sectors": List(ClassLabel(names=["Agriculture", "Health", "Shelter", "WASH"]))})
    rows = [{"excerpt": f"row {n}", "sectors": [[1], [3], [1, 3], []][n % 4]} for n in range(40)]
    (tmp_path / "humset/sectors").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"humset/sectors/{split}.parquet")
    task = tokenised(DataConfig("humset/sectors", "test"), tokenizer, "bytes", root=tmp_path, cache=None)
    assert task.label_names == ("Health", "WASH")
    assert task.num_labels == 2
    perfect = 2 * np.asarray(task.splits["test"]["label"][:]) - 1
    assert evaluate(task.task, perfect, task.splits["test"])["macro_f1"] == 1.0


def test_class_of_a_test_row_that_train_lacks_is_refused_by_name(tmp_path: Path) -> None:
    features = Features({"excerpt": Value("string"), "sectors": List(ClassLabel(names=["Agriculture", "Health"]))})
    (tmp_path / "humset/sectors").mkdir(parents=True)
    for split, number in (("train", 1), ("validation", 1), ("test", 0)):
        rows = [{"excerpt": f"row {n}", "sectors": [number]} for n in range(10)]
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"humset/sectors/{split}.parquet")
    with pytest.raises(UserError, match=r"test\.parquet, row 0: the label 'Agriculture' is none of Health"):
        load_task(DataConfig("humset/sectors", "test"), root=tmp_path)


def test_multi_label_task_without_any_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t/train.jsonl").write_text('{"text": "a", "label": []}\n' * 10)
    with pytest.raises(UserError, match="no row of train has a label in column 'label'"):
        load(tmp_path, kind="multi_label")


def test_forms_of_one_label() -> None:
    assert [compared(label) for label in ("1.0", "-2.00", "01", "TRUE", "Pos", "1.5")] == ["1", "-2", "01", "true", "Pos", "1.5"]
    assert found_names({"True", "true", "false"}) == ("True", "false")
    assert class_numbers(["1.0", "1"], ["1", "1.0"], ordered=True) == {"1": 0, "1.0": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def loaded(place: str) -> LoadedBackbone:
    return load_backbone(place)


@pytest.mark.parametrize(
    ("name", "labels", "definition"),
    [
        ("mixed", ["3", "3", "3", "unknown", "1"], {}),
        ("swapped", ["true", "true", "true", "false"], {"labels": ["true", "false"]}),
        ("floats", ["0.0", "1.0", "1.0", "1.0"], {}),
        ("signs", ["-1", "1", "1", "1", "0"], {"labels": [-1, 0, 1]}),
        ("spaces", ["pos", "pos ", "pos "], {}),
        ("capitals", ["TRUE", "TRUE", "TRUE", "FALSE"], {"labels": [False, True]}),
        ("counted", ["1", "1", "1", "0"], {"labels": ["neg", "pos"]}),
    ],
)
def test_predictions_results_and_exports_name_the_classes_as_the_file_does(
    name: str, labels: Labels, definition: Mapping[str, Any], place: str, loaded: LoadedBackbone, tmp_path: Path
) -> None:
    key = f"mine/{name}"
    file = write(tmp_path / key, labels * 8) / "train.csv"
    rows = (config_of(tmp_path, key, **definition),)
    source = job("adapter", rows, place)
    scalearn.fit(source, tmp_path / "source", backbone=loaded, root=tmp_path)
    target = job("scalearn", rows, place, sources=(name,))
    scalearn.fit(target, tmp_path / "target", sources={name: tmp_path / "source"}, backbone=loaded, root=tmp_path)
    export_adapter(fold(load_model(tmp_path / "target", loaded, {name: tmp_path / "source"})), tmp_path / "exported")

    splits = load_task(source.data[0], root=tmp_path)
    names = splits.label_names
    assert names is not None
    written = dict(line.rsplit(",", 1) for line in file.read_text().split("\n")[1:-1])
    test = [row["text"] for row in splits.test]
    # `counted`: the file's numbers are places in the names that the definition gives them.
    means = {text: names[int(label)] if name == "counted" else label for text, label in written.items()}
    for directory, sources in ((tmp_path / "source", None), (tmp_path / "target", {name: tmp_path / "source"})):
        result = json.loads((directory / "result.json").read_text())
        assert result["label_names"][key] == list(names)
        model = load_model(directory, loaded, sources)
        predicted = [prediction.labels[0] for prediction in model.predict(test)]
        assert set(predicted) <= set(names)
        right = sum(compared(label) == compared(means[text]) for label, text in zip(predicted, test, strict=True))
        assert result["scores"][key]["test"]["accuracy"] == pytest.approx(right / len(test))
        assert bool(result["data_warnings"]) == (name == "spaces")
        assert set(result["data_warnings"].get(key, ())) <= set(result["warnings"])
    library = AutoAdapterModel.from_pretrained(place)
    for exported in (tmp_path / "source/adapter", tmp_path / "exported"):
        adapter = library.load_adapter(str(exported), use_safetensors=True, load_as=exported.name)
        assert library.get_labels_dict(adapter) == dict(enumerate(names))


def test_cache_and_log_of_a_job_carry_the_warning(place: str, loaded: LoadedBackbone, tmp_path: Path) -> None:
    write(tmp_path / "mine/t", ["pos"] * 30)
    config = job("adapter", (config_of(tmp_path),), place)
    for turn in ("first", "second"):
        with pytest.warns(UserWarning, match="every label of train is 'pos'"):
            scalearn.fit(
                config, tmp_path / turn, backbone=loaded, runtime=Runtime(device="cpu", data_root=tmp_path, cache=tmp_path / "cache")
            )
        result = json.loads((tmp_path / turn / "result.json").read_text())
        (sentence,) = result["data_warnings"]["mine/t"]
        assert "every label of train is 'pos'" in sentence
