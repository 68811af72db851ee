"""`scalearn report` and `compare` on a small store, in this process; what `run` makes of a report that cannot be drawn."""

import contextlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import analysis
from analysis.reading.frame import CONFIG_COLUMNS
from analysis.report import results
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.watching.report import show_results
from tests.orchestrator.helpers.doubles import behave, run_jobs
from tests.orchestrator.helpers.small_sweep import small_store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in which one job has failed. Tests must leave it alone."""
    file, store, graph = small_store(tmp_path_factory.mktemp("done"))
    behave(store, ("lr6e-03-seed1.*", {"error": "The loss became nan."}))
    run_jobs(graph, store)
    return file


def test_report_of_a_partly_failed_sweep_is_a_folder_whose_place_is_printed(done, tmp_path, capsys):
    store = str(done.parent / "runs")
    assert main(["report", str(done), "--store", store, "--to", str(tmp_path / "report"), "--rule", "6e-3"]) == 0
    output = capsys.readouterr().out
    assert f"Report: {tmp_path / 'report' / 'index.html'}" in output
    assert "Learning rate fixed at 0.006" in output
    assert "The loss became nan." in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "tables" / "benchmark.tex").exists()


@contextlib.contextmanager
def opened_files() -> Iterator[Counter[str]]:
    """Count the openings of each file by this process, in whatever way: an audit hook, which is silent afterwards."""
    opened: Counter[str] = Counter()
    counting = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if counting and event == "open" and isinstance(arguments[0], str):
            opened[arguments[0]] += 1

    sys.addaudithook(hook)
    try:
        yield opened
    finally:
        counting = False


@pytest.mark.parametrize("command", ["report", "run"])
def test_results_are_read_once_for_table_and_report(done, tmp_path, command):
    store = Store(tmp_path / "runs")
    shutil.copytree(done.parent / "runs", store.root)
    with opened_files() as opened:
        if command == "report":
            assert main(["report", str(done), "--store", store.url]) == 0
        else:
            assert show_results(store, "small", Console(quiet=True)).problem is None
    finished = list(store.root.glob("domains/**/result.json"))
    assert len(finished) > 3
    assert {opened[str(file)] for file in finished} == {1}


def test_sweep_is_found_by_file_manifest_and_name(done, tmp_path, capsys):
    manifest, store = done.parent / "runs" / "sweeps" / "small.json", str(done.parent / "runs")
    assert main(["compare", str(done), str(manifest), "--store", store, "--json"]) == 0
    by_file = json.loads(capsys.readouterr().out)
    assert main(["compare", "small", "small", "--store", store, "--json", "--to", str(tmp_path / "both.md")]) == 0
    by_name = json.loads(capsys.readouterr().out)
    assert by_file == by_name
    assert by_name["configuration"] == []
    assert {entry["difference"] for entry in by_name["scores"]} == {0.0}
    assert "configured alike" in (tmp_path / "both.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "absent.yaml"], "absent.yaml"),
        (["report", "small"], "small"),
        (["report", "FILE", "--store", "nowhere"], "There is no store at"),
        (["report", "FILE", "--store", "STORE", "--against", "paper"], "publishes no scores for benchmark domains"),
        (["report", "FILE", "--store", "STORE", "--rule", "test"], "Unknown selection rule 'test'"),
        (["report", "FILE", "--store", "STORE", "--to", "file"], "cannot be written to"),
        (["report", "runs/other/small.json"], "not a sweep's manifest"),
        (["compare", "FILE"], "required: SWEEP_B"),
        (["compare", "FILE", "FILE", "--store", "STORE", "--to", "file/comparison.md"], "cannot be written"),
        (["ui", "FILE", "--store", "nowhere"], "holds no sweep named 'small'"),
        (["ui", "FILE", "--store", "STORE"], "`scalearn run` logs them again"),
        (["ui", "FILE", "--port", "0"], "at least 1"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(done, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    places = {"FILE": str(done), "STORE": str(done.parent / "runs")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err
    assert output.err.count("\n") == 1
    assert not (done.parent / "runs" / "reports" / "small-against-paper").exists()


def test_rows_of_a_sweep_that_has_not_begun_are_named_by_their_settings(tmp_path):
    _, store, graph = small_store(tmp_path)
    table = analysis.benchmark_table(analysis.load(store.root, "small"))
    assert [row.title for row in table.rows] == ["ScaLearn (omega_dropout=0)", "ScaLearn (omega_dropout=0.3)"]
    before = analysis.load(store.root, "small").set_index("node")
    run_jobs(graph, store)
    after = analysis.load(store.root, "small").drop_duplicates("node").set_index("node")
    columns = [*CONFIG_COLUMNS, "setting_omega_dropout", "seed", "learning_rate"]
    assert before[columns].equals(after[columns])


def test_picture_that_cannot_be_drawn_costs_one_line_and_no_table(done, monkeypatch, tmp_path):
    store = Store(done.parent / "runs")
    monkeypatch.setattr("orchestrator.watching.report.report_folder", lambda *_: tmp_path / "report")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no font\nof that name")

    monkeypatch.setattr(results, "write_plots", fail)
    found = show_results(store, "small", Console(quiet=True))
    assert "could not be drawn (RuntimeError: no font)" in found.problem
    assert "| ScaLearn" in (tmp_path / "report" / "tables" / "benchmark.md").read_text()
    monkeypatch.undo()
    monkeypatch.setattr("orchestrator.watching.report.report_folder", lambda *_: tmp_path / "report")
    mended = show_results(store, "small", Console(quiet=True))
    assert mended.problem is None
    assert mended.page.exists()
    assert mended.metrics
    assert show_results(store, "small", Console(quiet=True)).mark == mended.mark


def test_table_of_a_store_without_the_sweep_is_a_line(tmp_path):
    console = Console(record=True, width=120)
    (tmp_path / "runs").mkdir()
    assert "No report" in (show_results(Store(tmp_path / "runs"), "small", console).problem or "")
    assert "No table yet" in console.export_text()
