"""One sweep, one name: commands after `run x.yaml --set ...`, by the file alone, the name and the manifest. Training is a double."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import keep_apart, write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from tests.orchestrator.helpers.doubles import behave, run_jobs
from tests.orchestrator.helpers.small_sweep import SWEEP

SET = "methods.scalearn.seeds=[7]"
REMARK = (
    "scalearn: small.yaml says 6 jobs, 4 of which are not among the 4 that were last run into {store} as small"
    " --set methods.scalearn.seeds=[7]: the latter are meant here, and `scalearn plan` shows the former.\n"
)

Say = Callable[..., tuple[int, str, str]]


def run(store: Store, *overrides: str) -> Sweep:
    """Do what `scalearn run small.yaml --set ...` leaves."""
    sweep = Sweep.load("small.yaml", overrides)
    graph = sweep.expand()
    keep_apart(sweep.name, graph, store)
    write_manifest(sweep, graph, store, f"sqlite:///{store.root / 'mlflow.db'}", None)
    run_jobs(graph, store)
    return sweep


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The default store of a directory in which a sweep was run with `--set`."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SWEEP)
    store = Store(tmp_path / "runs")
    store.root.mkdir()
    run(store, SET)
    return store


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def counts(printed: str) -> dict[str, int]:
    return dict(json.loads(printed)["jobs"]["by_state"])


def test_file_without_its_set_shows_what_was_run_and_says_so_in_one_sentence(store: Store, say: Say) -> None:
    code, out, err = say("status", "small.yaml", "--json")
    assert (code, counts(out)) == (0, {"succeeded": 4})
    assert err == REMARK.format(store=store.url)


def test_other_commands_mean_what_was_run_too(store: Store, say: Say) -> None:
    node = next(node for node in Sweep.load("small.yaml", [SET]).expand().nodes() if "seed7" in node)
    assert say("verify", "small.yaml")[1] == "small: 4 jobs: 4 whole.\n"
    assert "Succeeded" in say("logs", "small.yaml", node)[1]
    assert say("retry", "small.yaml")[1] == "No job failed.\n"
    assert say("cancel", "small.yaml")[1] == f"No driver is at work on sweep small in {store.root}.\n"
    assert "Report: " in say("report", "small.yaml")[1]


@pytest.mark.parametrize("named", [["small"], ["small", "--store", "runs"], ["runs/sweeps/small.json"], ["small.yaml", "--set", SET]])
def test_name_manifest_and_the_same_set_mean_it_without_a_word(store: Store, say: Say, named: list[str]) -> None:
    code, out, err = say("status", *named, "--json")
    assert (code, counts(out), err) == (0, {"succeeded": 4}, "")


def test_plan_shows_what_the_file_says(store: Store, say: Say) -> None:
    assert counts(say("plan", "small.yaml", "--json")[1]) == {"cached": 2, "pending": 4}
    assert counts(say("plan", "small", "--json")[1]) == {"cached": 4, "pending": 0}


def test_earlier_sweep_of_the_name_is_found_by_its_file(store: Store, say: Say) -> None:
    run(store)
    assert counts(say("status", "small.yaml", "--json")[1]) == {"succeeded": 6}
    code, out, err = say("status", "small.yaml", "--set", SET, "--json")
    assert (code, counts(out), err) == (0, {"succeeded": 4}, "")


def test_retry_by_name_runs_what_failed_of_what_was_run(store: Store, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(store, (r"seed9/?", {"error": "The loss became nan."}), ("seed9-", {"error": "The loss became nan."}))
    run(store, "methods.scalearn.seeds=[9]")
    asked = []
    monkeypatch.setattr("orchestrator.commands.retry.run_sweep", lambda sweep, store, options, console: asked.append((sweep, options)) or 0)
    assert say("retry", "small")[0] == 0
    ((sweep, options),) = asked
    assert options.nodes == {node for node in sweep.expand().nodes() if "seed9" in node}
    assert len(options.nodes) == 2


def test_status_lists_finished_jobs_on_request(store: Store, say: Say) -> None:
    nodes = Sweep.load("small.yaml", [SET]).expand().nodes()
    assert all(f"done     {node}" not in say("status", "small")[1] for node in nodes)
    printed = say("status", "small", "--done")[1]
    assert all(f"done     {node}\n" in printed for node in nodes)


def test_copied_store_is_looked_at_where_the_sweeps_data_is_not(store: Store, say: Say, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    Path("small.yaml").unlink()
    assert counts(say("status", "copy/sweeps/small.json", "--json")[1]) == {"succeeded": 4}
    assert counts(say("status", "small", "--store", "copy", "--json")[1]) == {"succeeded": 4}


def test_manifest_keeps_the_name_of_the_file_when_it_is_run_by_name(store: Store) -> None:
    sweep = Sweep.load("runs/sweeps/small.json")
    write_manifest(sweep, sweep.expand(), store, "sqlite:///x.db", None)
    assert (store.load_json(store.manifest_path("small")) or {})["file"] == "small.yaml"


def test_name_that_is_in_no_store_is_refused_in_one_line(store: Store, say: Say) -> None:
    code, out, err = say("status", "smal", "--store", "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "smal" in err
    code, _, err = say("status", "runs/sweeps/smal.json")
    assert (code, err) == (2, f"scalearn: {store.url} holds no sweep named 'smal': run it first, or name its store with --store.\n")
