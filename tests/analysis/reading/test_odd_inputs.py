"""A store whose files hold what no job writes: no traceback, no sound job hidden, nothing in a table that acts on who reads it."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

import analysis
from analysis.plots.scores import curve_points
from analysis.reading.history import load_history, load_spans
from analysis.report.report import write_report
from analysis.tables.render import to_csv, to_html, to_latex, to_markdown, to_terminal
from tests.analysis.helpers.build_store import StoreSpec, build_store

SPEC = StoreSpec(methods={"adapterfusion": (5e-5,), "scalearn": (6e-3, 2e-2)}, omegas=False)
ODD = "scalearn/apple/lr6e-03-seed0"
APPLE = "domains/apple"
HUGE = 10**400
EVIL = "=a[/]\x1b[31m\x1b]0;t\x07$x_{|\u202e\u4e2d<b>`"
"""Rich's markup, terminal sequences, an open formula, a table's column, the direction of text, HTML."""


def put(*path: Any) -> Callable[[Any], None]:
    *keys, last, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    build_store(root, SPEC)
    return root


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


RESULTS = {
    "a score beyond all numbers": put("scores", APPLE, "validation", "accuracy", HUGE),
    "a score that is text": put("scores", APPLE, "validation", "accuracy", "0.99"),
    "a score that is a truth value": put("scores", APPLE, "validation", "accuracy", True),
    "rows beyond 64 bits": put("rows", APPLE, "train", 10**30),
    "steps that are text": put("steps", "24"),
    "an epoch beyond all numbers": put("best_epoch", HUGE),
}
JOBS = {
    "a seed that is text": put("config", "seed", "0"),
    "a seed beyond 64 bits": put("config", "seed", 10**30),
    "a seed that is a truth value": put("config", "seed", True),
    "a learning rate that is text": put("config", "optimisation", "learning_rate", "6e-3"),
    "a learning rate beyond all numbers": put("config", "optimisation", "learning_rate", HUGE),
    "half a character": put("config", "backbone", "minilm\ud800"),
    "a batch size that is text": put("config", "optimisation", "batch_size", "32"),
}


@pytest.mark.parametrize(
    ("file", "change"),
    [*(("result.json", change) for change in RESULTS.values()), *(("job.json", change) for change in JOBS.values())],
    ids=[*RESULTS, *JOBS],
)
def test_odd_value_fails_its_job_and_hides_no_other(store: Path, file: str, change: Callable[[Any], None]) -> None:
    edit(next(store.glob(f"**/{ODD}*/{file}")), change)
    for frame in (analysis.load(store, "demo"), analysis.load(store)):
        states = frame.drop_duplicates("node").set_index("node")["state"]
        assert {node.rpartition("-")[0] for node in states.index[states == "failed"]} == {f"domains/minilm/transfer/{ODD}"}
        assert (states == "succeeded").sum() == len(states) - 1


def test_job_that_names_no_method_stands_in_no_cell_and_hides_no_other(store: Path) -> None:
    edit(next(store.glob(f"**/{ODD}*/job.json")), put("config", {"seed": 0}))
    frame = analysis.load(store)
    assert not frame.loc[frame["node"].str.contains(ODD), "chosen"].any()
    assert [row.method for row in analysis.benchmark_table(frame).rows] == ["adapter", "adapterfusion", "scalearn"]


def test_infinite_score_never_wins(store: Path) -> None:
    result = next(store.glob(f"**/{ODD}*/result.json"))
    for token in ("1e999", "NaN", "Infinity"):
        content = json.loads(next(store.glob("**/scalearn/apple/lr2e-02-seed0*/result.json")).read_text())
        content["scores"][APPLE]["validation"]["accuracy"] = "here"
        result.write_text(json.dumps(content).replace('"here"', token))
        table = analysis.benchmark_table(analysis.load(store, "demo"))
        (cell,) = [row.cells[0] for row in table.rows if row.method == "scalearn"]
        assert (cell.learning_rate, cell.set_aside) == (2e-2, (6e-3,)), token


@pytest.mark.parametrize(("file", "key"), [("job.json", "started"), ("SUCCESS.json", "time")])
def test_time_beyond_all_numbers_is_no_time(store: Path, file: str, key: str) -> None:
    edit(next(store.glob(f"**/{ODD}*/{file}")), put(key, HUGE))
    frame = analysis.load(store, "demo").set_index("node")
    column = {"started": "started", "time": "finished"}[key]
    assert frame.loc[frame.index.str.contains(ODD), column].isna().all()
    assert frame["state"].eq("succeeded").all()


@pytest.mark.parametrize(
    "change",
    [put("overrides", 5), put("targets", "abc"), put("targets", [1]), put("methods", [["a"]]), put("nodes", {"a": 1}), put("benchmark", 5)],
)
def test_manifest_of_another_form_is_one_sentence(store: Path, change: Callable[[Any], None]) -> None:
    edit(store / "sweeps" / "demo.json", change)
    with pytest.raises(analysis.ResultsError, match="has not the form that runs write; run the sweep again"):
        analysis.load(store, "demo")


def test_manifest_copied_to_another_name_is_called_by_that_name(store: Path) -> None:
    shutil.copy(store / "sweeps" / "demo.json", store / "sweeps" / "before.json")
    frame = analysis.load(store, "before")
    assert set(frame["sweep"]) == {"before"}
    assert analysis.benchmark_table(frame).title.startswith("before")


def test_field_that_is_called_like_a_column_of_ours_does_no_harm(store: Path) -> None:
    for job in store.glob(f"**/{ODD}*/job.json"):
        edit(job, lambda content: content["config"].update(dict.fromkeys(("variant", "chosen", "value", "node"), "x")))
    frame = analysis.load(store, "demo")
    assert [row.method for row in analysis.benchmark_table(frame).rows] == ["adapterfusion", "scalearn"]
    assert set(curve_points(frame, "learning_rate")["method"]) == {"adapter", "adapterfusion", "scalearn"}


def test_stray_files_change_no_table(store: Path) -> None:
    before = to_csv(analysis.benchmark_table(analysis.load(store, "demo"))), to_csv(analysis.benchmark_table(analysis.load(store)))
    (store / "sweeps" / "notes.json").write_text("hello")
    (store / "README.txt").write_text("hello")
    for name, content in (("job.json", "{}"), ("SUCCESS.json", "{}"), ("history.jsonl", "")):
        (store / f"stray {name}").mkdir()
        (store / f"stray {name}" / name).write_text(content)
    assert before == (
        to_csv(analysis.benchmark_table(analysis.load(store, "demo"))),
        to_csv(analysis.benchmark_table(analysis.load(store))),
    )


def test_history_lines_of_another_form_are_left_out(store: Path) -> None:
    history = next(store.glob(f"**/{ODD}*/history.jsonl"))
    sound = load_history(store, "demo")
    odd = ['{"time": "x"}', "5", '{"validation": 5}', '{"tasks": []}', '{"time": 1e999}', f'{{"time": {HUGE}}}', "[" * 100_000]
    history.write_text(history.read_text() + "\n".join(odd) + "\n")
    assert load_history(store, "demo").equals(sound)
    assert len(load_spans(store, "demo")) == sound["node"].nunique()


def printed(table: analysis.BenchmarkTable) -> dict[str, str]:
    console = Console(width=300, file=io.StringIO())
    to_terminal(table, console)
    terminal = console.file.getvalue()  # type: ignore[attr-defined]
    return {"terminal": terminal, "md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table), "html": to_html(table)}


def evil_store(root: Path) -> Path:
    """A store whose task, metric, host and error are called so."""
    build_store(root, replace(SPEC, states={"scalearn/coachella/lr6e-03-seed1": "failed"}, history=True))
    task = f"domains/{EVIL}"
    for job in root.glob("**/apple/*/job.json"):
        edit(job, lambda content: content["config"]["data"][0].update(task=task))
        edit(job, put("provenance", "host", EVIL))
    metrics = {"loss": 0.5, EVIL: 0.75}
    for result in root.glob("**/apple/*/result.json"):
        edit(result, lambda content: content.update(scores={task: {"validation": metrics, "test": metrics}}, primary_metric={task: EVIL}))
    edit(next(root.glob("**/FAILED.json")), put("error", EVIL))
    edit(root / "sweeps" / "demo.json", put("targets", [task, "domains/coachella"]))
    return root


def test_tables_hold_nothing_that_acts_on_a_terminal_a_page_or_a_spreadsheet(tmp_path: Path) -> None:
    table = analysis.benchmark_table(analysis.load(evil_store(tmp_path), "demo"))
    for name, text in printed(table).items():
        assert all(letter.isprintable() or letter == "\n" for letter in text), name
        assert "x1b" in text, name
        assert text.encode(), name
    texts = printed(table)
    assert "[31m" in texts["terminal"]
    assert "<b>" not in texts["html"] + texts["md"]
    assert r"\|" in texts["md"]
    assert texts["tex"].isascii()
    assert "{[}31m" in texts["tex"]
    assert ",'=a[/]" in texts["csv"]


def test_report_of_evil_names_is_written_and_holds_none_of_them_raw(tmp_path: Path) -> None:
    page = write_report(evil_store(tmp_path / "store"), "demo", tmp_path / "report")
    texts = [page, *(page.parent / "tables").glob("*")]
    assert len(texts) > 10
    for path in texts:
        text = path.read_text()
        assert all(letter.isprintable() or letter in "\n\xa0" for letter in text), path
        assert "<b>`" not in text or path.suffix in (".csv", ".tex"), path
    drawn = [ElementTree.parse(path) for path in (page.parent / "plots").glob("*.svg")]  # a control character is no XML
    assert len(drawn) > 3
