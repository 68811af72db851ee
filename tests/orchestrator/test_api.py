"""Sweeps in Python: the same jobs and errors as a file's, what a program and a notebook's cell get, and a cell that is interrupted."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from orchestrator import Sweep
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition import sweep as definition
from orchestrator.drivers.heartbeat import drivers
from orchestrator.watching.status import SweepStatus
from scalearn.errors import UserError, UserErrors
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.small_sweep import SWEEP, small_store

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
KEYS: dict[str, Any] = {
    "name": "tiny",
    "benchmark": "domains",
    "backbone": "minilm",
    "data": {"train_rows": 32, "evaluation_rows": 24, "max_length": 24},
    "sources": {"tasks": ("apple", "bbc")},
    "targets": ["apple"],
    "training": {"epochs": 1, "batch_size": 16},
    "methods": {"scalearn_pp": {}},
}


def test_import_of_the_class_loads_nothing_heavy() -> None:
    program = """
import sys
import orchestrator
assert "pydantic" not in sys.modules
orchestrator.Sweep(name="a", benchmark="domains", backbone="minilm", methods={"scalearn": {}}).plan()
heavy = {"torch", "ray", "transformers", "mlflow", "adapters", "pandas"} & set(sys.modules)
assert not heavy, heavy
assert not hasattr(orchestrator, "Sweeps")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_keywords_and_file_make_the_same_jobs(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SWEEP)
    by_file, by_keywords = Sweep.from_file(file, store=tmp_path), Sweep(**yaml.safe_load(SWEEP), store=tmp_path)
    assert [job.node for job in by_file.plan().jobs] == [job.node for job in by_keywords.plan().jobs]
    assert repr(by_keywords) == f"Sweep small: 6 jobs, store {tmp_path}"
    changed = Sweep.from_file(file, set={"methods.scalearn.learning_rate": [1e-5, 0.5], "name": "larger"}, store=tmp_path)
    assert (changed.name, len(changed.plan().jobs)) == ("larger", 10)
    assert len(by_file.plan(only="seed1").jobs) == 4


def test_errors_of_keywords_are_those_of_a_file_without_its_lines() -> None:
    wrong = {"name": "x", "benchmark": "domains", "backbone": "minilm", "seeds": -1, "methods": {"scalern": {}}}
    with pytest.raises(UserErrors) as by_keywords:
        Sweep(**wrong)
    with pytest.raises(UserErrors) as by_file:
        definition.Sweep.from_text(yaml.safe_dump(wrong, sort_keys=False))
    told = [sentence.partition(": ")[2] for sentence in by_file.value.sentences]
    assert [sentence.removeprefix("Sweep(...): ") for sentence in by_keywords.value.sentences] == told
    assert len(told) == 2
    with pytest.raises(UserError, match="not plain data"):
        Sweep(name="x", methods=object())


@pytest.fixture
def done(tmp_path: Path) -> Sweep:
    """A sweep all of whose jobs a double has done."""
    file, store, graph = small_store(tmp_path / "done")
    run_jobs(graph, store)
    return Sweep.from_file(file, store=store.root)


def test_results_are_tables_that_show_themselves(done: Sweep) -> None:
    frame, table = done.table().to_frame(), done.table()._repr_html_()
    assert list(frame["variant"]) == ["omega_dropout=0", "omega_dropout=0.3"]
    assert set(frame["mean"]) == {0.74}
    assert "74.0" in table
    assert "<table" in table
    assert done.frame()["node"].nunique() == 6
    assert done.report(rule="6e-3").is_file()
    shown = done.status()._repr_html_()
    assert "scalearn" in shown
    assert "4/4" in shown
    assert "cached" in done.plan()._repr_html_()


def test_forecast_is_what_plan_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SWEEP)
    sweep = Sweep.from_file(file, store=tmp_path / "runs")
    expected = sweep.forecast(2, profile="epyc_2_cores", price_per_hour=1.5)
    arguments = ["--gpus", "2", "--profile", "epyc_2_cores", "--price-per-hour", "1.5"]
    assert main(["plan", str(file), "--store", str(tmp_path / "runs"), "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"] == expected.values
    assert 0 < expected.device_hours * 3600 / 2 <= expected.seconds
    assert "What dominates" in expected._repr_html_()


def test_sweep_that_was_not_run_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no store at"):
        Sweep(**yaml.safe_load(SWEEP), store=tmp_path / "nowhere").table()


def test_program_is_warned_that_other_jobs_were_run(done: Sweep, tmp_path: Path) -> None:
    other = Sweep.from_file(tmp_path / "done" / "small.yaml", set={"methods.scalearn.seeds": [5]}, store=done.store)
    with pytest.warns(UserWarning, match="2 of which are not among the 6 that were last run"):
        assert {job.state for job in other.status().jobs} == {"succeeded"}


def test_run_that_cannot_begin_raises_the_sentence_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        Sweep(**KEYS, store=tmp_path / "file" / "runs").run(progress=False)


@pytest.mark.slow
def test_run_tells_a_function_how_far_it_is_and_resumes_nothing_that_is_done(tmp_path: Path) -> None:
    sweep, seen = Sweep(**KEYS, store=tmp_path / "runs"), list[SweepStatus]()
    here = Path.cwd()
    assert {job.state for job in sweep.run(progress=seen.append, cpus=2, gpus=0).jobs} == {"succeeded"}
    assert Path.cwd() == here
    assert any(status.running for status in seen)
    assert {job.state for job in seen[-1].jobs} == {"succeeded"}
    assert set(sweep.table().to_frame()["seeds"]) == {1}
    assert {job.state for job in sweep.plan().jobs} == {"cached"}


@pytest.mark.slow
def test_notebook_of_the_quickstart_runs_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: KEYS[name] for name in ("data", "targets", "training", "methods")} | {"sources.tasks": ["apple", "bbc"], "seeds": [0]}
    monkeypatch.setenv("SCALEARN_SET", json.dumps(small))
    book = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    plan, run, table, frame, report, own = ("\n".join(map(_shown, cell.outputs)) for cell in code)
    assert "quickstart: 3 jobs" in plan
    assert "Sweep quickstart: 3 jobs, 0 done before, 3 to run." in run
    assert "1/1" in run
    lines = "".join(output.text for output in code[1].outputs if output.output_type == "stream")
    assert "scalearn_pp/apple" not in lines  # no line per job, since the table tells
    assert "<table" in table
    assert "ScaLearn++" in frame
    assert "rows of 3 jobs" in report
    assert "cached" in own


def _shown(output: Any) -> str:
    return str(output.get("text", "")) + str(output.get("data", {}))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_cell_that_is_interrupted_leaves_checkpoints_and_a_living_kernel(kernel: Any, tmp_path: Path) -> None:
    manager, client = kernel
    store = Store(tmp_path / "runs")
    keys = {**KEYS, "training": {"epochs": 10_000, "batch_size": 16, "patience": None}, "store": str(store.root)}
    assert (
        client.execute_interactive(f"from orchestrator import Sweep; sweep = Sweep(**{keys!r})", timeout=600)["content"]["status"] == "ok"
    )
    message = client.execute("sweep.run(cpus=2, gpus=0)")
    _until(lambda: list(store.root.glob("domains/minilm/*/*/*/*/history.jsonl")))
    manager.interrupt_kernel()  # SIGINT to the kernel's process group
    answer = _reply(client, message)
    assert (answer["status"], answer.get("ename")) == ("error", "KeyboardInterrupt")
    assert drivers(store, "tiny") == []
    begun = [file.parent for file in store.root.glob("domains/minilm/*/*/*/*/history.jsonl")]
    assert [bool(list((job / "checkpoint").iterdir())) for job in begun] == [True] * len(begun)
    answer = client.execute_interactive("assert not sweep.status().running and sweep.plan()", timeout=600)
    assert answer["content"]["status"] == "ok"


def _reply(client: Any, message: str) -> dict[str, Any]:
    while True:
        reply = client.get_shell_msg(timeout=600)
        if reply["parent_header"].get("msg_id") == message:
            return dict(reply["content"])


def _until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        with contextlib.suppress(OSError):
            time.sleep(0.1)


@pytest.mark.slow
def test_run_of_a_program_that_is_killed_stops_by_itself(tmp_path: Path) -> None:
    keys = {**KEYS, "training": {"epochs": 10_000, "patience": None}, "store": str(tmp_path / "runs")}
    program = subprocess.Popen(
        [sys.executable, "-c", f"from orchestrator import Sweep; Sweep(**{keys!r}).run(progress=False, cpus=1, gpus=0)"]
    )
    store = Store(tmp_path / "runs")
    try:
        _until(lambda: list(store.root.glob("domains/minilm/*/*/*/*/history.jsonl")))
    finally:
        program.kill()
        program.wait()
    _until(lambda: not drivers(store, "tiny"))
