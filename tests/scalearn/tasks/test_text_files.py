"""CSV, TSV and JSON files as people have them: texts and labels are the text in the file, and what cannot be read is one sentence."""

import csv
import gzip
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.data.split import TaskSplits
from scalearn.errors import UserError
from scalearn.tasks import definition_of, own_task
from scalearn.tasks.local_labels import local_warnings
from scalearn.tasks.origin import data_origin
from scalearn.tasks.present import check_present

DRAWN = {"validation": None, "test": None}


def load(root: Path, name: str, content: bytes | Callable[[Path], None], **definition: Any) -> TaskSplits:
    """Reads a train file of that name as a task of one's own."""
    directory = root / "mine/t"
    directory.mkdir(parents=True)
    if callable(content):
        content(directory / name)
    else:
        (directory / name).write_bytes(content)
    task = own_task("mine/t", {"columns": "text", "splits": DRAWN, **definition})
    check_present(task, root)
    return load_task(DataConfig("mine/t", data_origin(task, root), own=definition_of(task)), root=root)


def rows_of(splits: TaskSplits) -> dict[str, str | float]:
    """Text to label name, over all splits."""
    names = splits.label_names
    assert names is not None
    return {row["text"]: names[row["label"]] for rows in splits.splits.values() for row in rows}


def table(texts: list[str], separator: str = ",", ending: str = "\n") -> bytes:
    """Texts with the labels neg and pos in turn."""
    lines = [f"text{separator}label", *(f"{text}{separator}{('neg', 'pos')[n % 2]}" for n, text in enumerate(texts))]
    return "".join(line + ending for line in lines).encode()


def plain(count: int = 20) -> list[str]:
    return [f"text {n}" for n in range(count)]


def jsonl(*rows: Any, times: int = 10) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows * times).encode()


def frame(texts: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"text": texts, "label": [("neg", "pos")[n % 2] for n in range(len(texts))]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", b"\xef\xbb\xbf" + table(plain())),
        ("train.csv", table(plain(), ending="\r")),
        ("train.csv", table(plain(), ending="\r\n")),
        ("train.tsv", table(plain(), "\t", ending="\r")),
        ("train.csv", table(plain()).replace(b"\n", b",,\n")),  # as spreadsheets leave empty columns: two without a name
        ("train.csv", b"id," + table(plain()).replace(b"\n", b"\n1,", 20).replace(b"1,text 19", b"a17,text 19")),
        ("train.json", lambda path: frame(plain()).to_json(path, orient="records")),
        ("train.json", lambda path: frame(plain()).to_json(path, orient="records", indent=2)),
        ("train.json", lambda path: frame(plain()).to_json(path, orient="records", lines=True)),
        ("train.tsv", lambda path: frame(plain()).to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)),
    ],
)
def test_every_row_is_read_whatever_program_wrote_the_file(name: str, content: Any, tmp_path: Path) -> None:
    splits = load(tmp_path, name, content)
    assert rows_of(splits) == {text: ("neg", "pos")[n % 2] for n, text in enumerate(plain())}
    assert splits.warnings == ()


@pytest.mark.parametrize(
    "texts", [[f"{n:05}" for n in range(20)], [f"2020-01-{n + 1:02}" for n in range(20)], [f"{n}.10" for n in range(20)]]
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json"])
def test_text_that_looks_like_something_else_stays_as_written(texts: list[str], ending: str, tmp_path: Path) -> None:
    separator = {"csv": ",", "tsv": "\t"}.get(ending)
    rows = [{"text": text, "label": ("neg", "pos")[n % 2]} for n, text in enumerate(texts)]
    content = table(texts, separator) if separator else jsonl(*rows, times=1) if ending == "jsonl" else json.dumps(rows).encode()
    assert sorted(rows_of(load(tmp_path, f"train.{ending}", content))) == sorted(texts)


def test_numbers_of_json_are_text_as_written(tmp_path: Path) -> None:
    rows = ['{"text": 1.10, "label": true}', '{"text": 7, "label": false}']
    assert rows_of(load(tmp_path, "train.jsonl", jsonl(*rows))) == {"1.10": "true", "7": "false"}


def test_words_that_stand_for_nothing_elsewhere_are_labels(tmp_path: Path) -> None:
    content = table(plain(30)).replace(b"neg", b"None").replace(b"pos", b"NA")
    assert load(tmp_path, "train.csv", content).label_names == ("NA", "None")


def test_columns_that_the_task_does_not_read_may_hold_anything(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "more": 1}, {"text": "b", "label": "y", "more": {"deep": [1]}}]
    assert rows_of(load(tmp_path, "train.jsonl", jsonl(*rows))) == {"a": "x", "b": "y"}


def test_row_of_megabytes_is_read(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    assert long in rows_of(load(tmp_path, "train.csv", table([*plain(), long])))


TSV = plain(20)


@pytest.mark.parametrize(
    ("texts", "warned"),
    [
        (['"begins' if n % 5 == 0 else f"text {n}" for n in range(40)], 0),
        (['"' if n % 5 == 0 else f"text {n}" for n in range(40)], 0),
        ([f'"all of {n}"' if n < 7 else f"text {n}" for n in range(40)], 7),
        ([*TSV, '"begins', '"a ""b"" c"'], 1),  # the file cannot be quoted, since one mark is not closed
    ],
)
def test_tab_separated_file_knows_no_quoting_and_loses_no_row(texts: list[str], warned: int, tmp_path: Path) -> None:
    splits = load(tmp_path, "train.tsv", table(texts, "\t"))
    assert sorted(row["text"] for rows in splits.splits.values() for row in rows) == sorted(texts)
    assert len(splits.warnings) == bool(warned)
    assert all(f"the quotation marks around {warned} fields of train.tsv stay part of them" in each for each in splits.warnings)


@pytest.mark.parametrize("text", ['he "said" {}', "tab\t{}", "line\nline {}"])
def test_tab_separated_file_that_must_be_quoted_reads_as_pandas_wrote_it(text: str, tmp_path: Path) -> None:
    texts = [text.format(n) if n % 3 == 0 else f"plain {n}" for n in range(40)]
    splits = load(tmp_path, "train.tsv", lambda path: frame(texts).to_csv(path, sep="\t", index=False))
    assert sorted(rows_of(splits)) == sorted(texts)
    assert splits.warnings == ()


def test_rows_that_stray_marks_of_a_csv_file_swallow_are_counted(tmp_path: Path) -> None:
    texts = [f'"begins {n}' if n in (3, 13) else f'ends {n}"' if n in (7, 15) else f"text {n}" for n in range(40)]
    splits = load(tmp_path, "train.csv", table(texts))
    (sentence,) = splits.warnings
    assert "6 lines inside quoted fields of train.csv look like rows of their own, the first in row 3 (line 5)" in sentence


def test_texts_of_several_lines_are_no_rows(tmp_path: Path) -> None:
    texts = [f'"{n}, first\nsecond, {n}\n\nneg\na, b, pos"' for n in range(20)]
    assert load(tmp_path, "train.csv", table([*texts, "one line", "another"])).warnings == ()


@pytest.mark.parametrize("other", ["train.jsonl", "train.parquet", "train.json", "train/state.json"])
def test_split_that_is_there_twice_is_refused(other: str, tmp_path: Path) -> None:
    (tmp_path / "mine/t/train").mkdir(parents=True)
    (tmp_path / "mine/t/train.csv").write_bytes(table(plain()))
    (tmp_path / "mine/t" / other).touch()
    with pytest.raises(UserError, match=r"has its split 'train' in .* more than once: .*train.*; keep one of them"):
        data_origin(own_task("mine/t", {"columns": "text", "splits": DRAWN}), tmp_path)


@pytest.mark.parametrize("name", ["train.csv.gz", "train.CSV", "train.xlsx"])
def test_file_that_is_not_read_is_named_where_a_split_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t" / name).touch()
    with pytest.raises(UserError, match=rf"has no split 'train' in .*: there is {name}, but expected train\.csv, \.jsonl or \.parquet"):
        data_origin(own_task("mine/t", {"columns": "text", "splits": DRAWN}), tmp_path)


def test_plan_tells_of_a_column_that_a_file_lacks(tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    task = own_task("mine/t", {"columns": "text", "splits": DRAWN})
    frame(plain()).drop(columns="text").to_parquet(tmp_path / "mine/t/train.parquet")
    (sentence,) = local_warnings(task, tmp_path)
    assert "train.parquet lacks the column 'text'; its columns are label" in sentence
    (tmp_path / "mine/t/train.parquet").rename(tmp_path / "mine/t/old.parquet")
    frame(plain()).rename(columns=str.upper).to_csv(tmp_path / "mine/t/train.csv", index=False)
    (sentence,) = local_warnings(task, tmp_path)
    assert "train.csv lacks the column 'text'; its columns are TEXT, LABEL; 'TEXT' and 'text' differ" in sentence


DEEP = 20_000


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train.csv", table(["ok", "déjà"]).decode().encode("latin-1"), "train.csv, row 1: byte 0xE9 in its column 'text' is not UTF-8"),
        (
            "train.jsonl",
            '{"text": "a", "label": "déjà"}\n'.encode("latin-1"),
            "train.jsonl, row 0: byte 0xE9 in its column 'label' is not UTF-8",
        ),
        ("train.csv", "täxt,label\na,b\n".encode("latin-1"), "train.csv: byte 0xE4 in its header is not UTF-8"),
        ("train.csv", table(plain()).decode().encode("utf-16"), "train.csv is UTF-16; write it again as UTF-8"),
        ("train.jsonl", jsonl({"text": "a", "label": "b"}).decode().encode("utf-16"), "train.jsonl is UTF-16"),
        ("train.csv", table(plain()).decode().encode("utf-16-le"), "train.csv: its header holds NUL bytes"),
        ("train.csv", table(["a", "b\0"]), "train.csv, row 1: its column 'text' holds NUL bytes"),
        ("train.csv", b"text,text,label\na,b,c\n", "train.csv has 2 columns named 'text'"),
        ("train.csv", table(plain(), ";"), "train.csv separates its fields by semicolons, not by commas; write it with commas"),
        ("train.csv", table(["a, b"], ";"), "train.csv separates its fields by semicolons, not by commas"),
        ("train.csv", table(["a, b"], "\t"), "train.csv separates its fields by tabs, not by commas; name it .tsv"),
        ("train.tsv", table(plain()), "train.tsv separates its fields by commas, not by tabs; name it .csv"),
        ("train.tsv", b'"text","label"\n"a","b"\n', "train.tsv separates its fields by commas, not by tabs; name it .csv"),
        (
            "train.csv",
            b"text, label\na, b\n",
            "its columns are text, ' label'; ' label' and 'label' differ",
        ),
        ("train.csv", b"Text,label\na,b\n", "its columns are Text, label; 'Text' and 'text' differ in capitals"),
        ("train.csv", 2 * b"\xef\xbb\xbf" + table(["a"]), r"its columns are '\ufefftext', label; '\ufefftext' and 'text' differ"),
        ("train.csv", "\n".join([",".join(f"c{n}" for n in range(3000))] * 2).encode(), "c18, c19 and 2980 more."),
        ("train.csv", b"x" * 100_000 + b",y\na,b\n", "..., y."),
        ("train.csv", gzip.compress(table(plain())), "train.csv is compressed by gzip; unpack it"),
        ("train.jsonl", lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"), "train.jsonl is a zip archive or a spreadsheet"),
        ("train.csv", lambda path: frame(plain()).to_parquet(path), "train.csv is a parquet file; name it .parquet"),
        ("train.csv", table(plain()).decode().encode("utf-32"), "train.csv is UTF-32"),
        (
            "train.jsonl",
            b'{"text": "a", "label": "b", "label": "c"}\n',
            "row 0 is not JSON (the key 'label' stands in one object",
        ),
        ("train.csv", table(plain()) + b"one,two,three\n", "train.csv, row 20 (line 22) has 3 fields where the header has 2"),
        ("train.csv", table(plain()) + b"one\n", "train.csv, row 20 (line 22) has 1 fields where the header has 2"),
        (
            "train.tsv",
            table([*TSV, "a\tb"], "\t"),
            "train.tsv, row 20 (line 22) has 3 fields where the header has 2; a field cannot hold a tab",
        ),
        ("train.csv", table(["a", '"begins', "b", '"begins', "c"]), "train.csv, line 3: a quotation mark opens a field and is not closed"),
        ("train.csv", table(["a", '"begins', "b"]), "train.csv, line 3: a quotation mark opens a field and is not closed"),
        ("train.csv", table(["a", r'"he said \"yes\" so"']), "train.csv, line 3: a quotation mark opens a field and is not closed"),
        (
            "train.json",
            lambda path: frame(plain()).to_json(path),
            "train.json holds columns, not rows; with pandas, write it by to_json(path, or",
        ),
        ("train.json", lambda path: frame(plain()).to_json(path, indent=1), "train.json holds columns, not rows"),
        ("train.json", b"[]", "train.json holds no rows"),
        ("train.json", b'["a", "b"]', "train.json, row 0 is no object"),
        ("train.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a",\n', "train.jsonl, row 1 is not JSON"),
        ("train.jsonl", b'{"text": {"a": 1}, "label": "b"}\n', "train.jsonl, row 0: column 'text' holds an object"),
        ("train.jsonl", b'{"text": ["a"], "label": "b"}\n', "column 'text' of"),
        ("train.jsonl", b'{"text": "a \\ud83d", "label": "b"}\n', r"train.jsonl, row 0: its column 'text' holds half a character (\ud83d)"),
        ("train.jsonl", jsonl({"text": "a"}, {"text": "b", "label": "x"}), "train.jsonl, row 0: column 'label' is null"),
        (
            "train.jsonl",
            b'{"text": "a", "label": ["b"]}\n{"text": "a", "label": "b"}\n',
            "holds lists in some rows and single values in others",
        ),
        ("train.jsonl", jsonl('{"text": "a", "label": NaN}'), "train.jsonl, row 0: column 'label' is null"),
    ],
)
def test_file_that_cannot_be_read_is_one_sentence(name: str, content: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, content)
    assert sentence in str(caught.value)
    assert "Task mine/t" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", '{"text": "a", "label": "b"}\n{"text": ' + "[" * DEEP + "]" * DEEP + ', "label": "b"}\n'),
        ("train.jsonl", '{"text": "a", "label": "b", "other": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}\n"),
        ("train.json", "[" * DEEP + "]" * DEEP),
        ("train.json", '[{"text": "a", "label": ' + "[" * DEEP + "]" * DEEP + "}]"),
    ],
)
def test_deeply_nested_json_is_one_sentence_and_the_process_lives(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t" / name).write_text(content)
    program = (
        "from pathlib import Path; from scalearn.tasks import own_task; from scalearn.data.read import read_splits\n"
        f"try: read_splits(own_task('mine/t', {{'columns': 'text', 'splits': {DRAWN}}}), Path({str(tmp_path)!r}))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("UserError Task mine/t: ")
    assert "is nested too deeply" in done.stdout
    assert done.stdout.count("\n") == 1
