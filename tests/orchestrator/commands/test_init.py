"""`scalearn init`: what it finds in tables, what it asks, and that the sweep which it writes plans."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep


def write(path: str, header: list[str], rows: list[list[object]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.endswith(".tsv") else ",").writerows([header, *rows])


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("books", "films"):
        write(f"data/reviews/{name}.csv", ["id", "review", "verdict"], [[n, f"seen {n} times", ("good", "bad")[n % 2]] for n in range(40)])
    return "data/reviews"


def test_tables_of_a_directory_become_tasks_that_plan(reviews: str, capsys: pytest.CaptureFixture[str]):
    assert main(["init", reviews]) == 0
    output = capsys.readouterr().out
    assert "books: 40 rows; columns id, review, verdict" in output
    assert "text review; label verdict: classes good (20), bad (20); validation and test drawn from train" in output
    assert "Wrote reviews.yaml: 2 tasks, 6 jobs." in output
    assert Path("data/reviews/books/train.csv").resolve() == Path("data/reviews/books.csv").resolve()
    assert main(["plan", "reviews.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"]["by_stage"] == {"source": 2, "transfer": 4}


def test_directories_of_splits_pairs_and_numbers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pairs = [[f"one {n}", f"two {n}", n / 8] for n in range(50)]
    for split in ("train", "dev"):
        write(f"mine/similar/{split}.tsv", ["first", "second", "label"], pairs)
    assert main(["init", "mine", "--columns", "first,second", "--to", "pairs.yaml"]) == 0
    sweep = Sweep.load("pairs.yaml")
    assert (sweep.name, sweep.benchmark) == ("pairs", "mine")
    assert sweep.tasks["similar"] == {
        "columns": ["first", "second"],
        "label": "label",
        "kind": "regression",
        "splits": {"validation": "dev", "test": None},
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "absent cannot be read (No such file or directory): name a directory of tables."),
        (["empty"], "empty holds no tables: put one directory per task into it, such as empty/reviews/train.csv."),
        (["data/reviews", "--label", "stars"], "Task books has no column 'stars': its columns are id, review, verdict."),
        (["data/reviews", "--to", "kept.yaml"], "kept.yaml exists: name another file with --to."),
        (["loose"], "No column of task texts looks like a label: name it with --label."),
        (["bare"], "Task empty: bare/empty/train.csv holds no rows"),
        (["wrong"], "wrong/latin/train.csv"),
    ],
)
def test_what_is_no_task_is_one_line(reviews: str, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str):
    Path("empty").mkdir()
    Path("kept.yaml").touch()
    write("loose/texts/train.csv", ["a", "b"], [[f"x{n}", f"y{n}"] for n in range(9)])
    write("bare/empty/train.csv", ["text", "label"], [])
    Path("wrong/latin").mkdir(parents=True)
    Path("wrong/latin/train.csv").write_bytes("text,label\ndéjà,x\n".encode("latin-1"))
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in Path.cwd().glob("*.yaml")) == ["kept.yaml"]


def test_terminal_is_asked_and_an_empty_answer_takes_what_was_found(reviews: str, tmp_path: Path):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    asked = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "init", reviews], stdin=theirs, stdout=subprocess.PIPE, env=environment
    )
    os.write(ours, b"\nid, review\n\n\n")
    output = asked.communicate(timeout=120)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "label column [verdict]: " in output
    tasks = Sweep.load("reviews.yaml").tasks
    assert [task["columns"] for task in tasks.values()] == [["id", "review"], ["review"]]
