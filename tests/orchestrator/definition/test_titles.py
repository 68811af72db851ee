"""What the registry and the tasks call things is what the command line, tables and reports call them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.reading.names import Names
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from scalearn.methods.registry import METHODS, get_method
from scalearn.tasks import benchmark_tasks, get_task


def planned(directory: Path, methods: Mapping[str, Any]) -> Path:
    """A store that holds the manifest of a sweep of which no job has begun."""
    about = {"name": "all", "benchmark": "domains", "backbone": "minilm", "methods": dict(methods)}
    file, store = directory / "all.yaml", Store(directory / "runs")
    file.write_text(json.dumps(about))
    store.root.mkdir()
    sweep = Sweep.load(file)
    write_manifest(sweep, sweep.expand(), store, "", None)
    return directory / "runs"


def params(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `scalearn params` calls the methods, in its order."""
    assert main(["params", "--backbone", "minilm"]) == 0
    return [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]


def every_method() -> dict[str, Any]:
    given: dict[str, Any] = {"adaptersoup": {"settings": {"sentence_encoder": "minilm"}}}
    given |= {"scalearn_fixed": {"sources": ["target"], "settings": {"omega": [1.0]}}}
    return {key: given.get(key, {}) for key in reversed(METHODS)}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of another package that belongs into the middle of the table."""
    monkeypatch.setitem(METHODS, "mine", replace(get_method("scalearn"), key="mine", title="My own method", family="joint", order=125))
    return "My own method"


@pytest.mark.parametrize("with_plugin", [False, True])
def test_params_and_tables_call_and_order_every_method_alike(
    with_plugin: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    mine = request.getfixturevalue("plugin") if with_plugin else None
    table = analysis.benchmark_table(analysis.load(planned(tmp_path, every_method()), "all"))
    titles = [row.title for row in table.rows]
    assert titles == params(capsys)
    assert len(titles) == len(METHODS)
    if mine:
        assert titles[titles.index(mine) - 1 : titles.index(mine) + 2] == ["Adapter (joint)", mine, "ProPETL (joint)"]


LATER = {"lora", "source_average", "best_source", "task_arithmetic", "ties", "dare_ties", "lorahub", "scalearn_gated", "sources_unfrozen"}
"""Methods that no results have which do not say their names."""


def test_table_of_results_that_say_nothing_is_the_same_for_every_method_of_that_time(tmp_path: Path) -> None:
    store = planned(tmp_path, {key: rows for key, rows in every_method().items() if key not in LATER})
    manifest = store / "sweeps" / "all.json"
    now = analysis.benchmark_table(analysis.load(store, "all"))
    content = json.loads(manifest.read_text())
    names = content.pop("names")
    assert set(names["methods"]) >= set(METHODS) - LATER
    manifest.write_text(json.dumps(content))
    before = analysis.benchmark_table(analysis.load(store, "all"))
    assert analysis.render.to_csv(now) == analysis.render.to_csv(replace(before, metrics=now.metrics))
    assert before.metrics == ("",) * len(now.targets)  # known since results say it
    assert analysis.render.to_markdown(replace(before, metrics=now.metrics)) == analysis.render.to_markdown(now)


@pytest.mark.parametrize("benchmark", ["glue", "super_glue", "humset", "domains", "gsg"])
def test_titles_and_order_of_tasks_are_those_that_earlier_tables_had(benchmark: str) -> None:
    tasks = [get_task(key) for key in benchmark_tasks(benchmark)]
    said = Names({"tasks": {task.key: {"title": task.title, "order": task.order} for task in tasks}})
    keys = benchmark_tasks(benchmark)
    assert said.order_tasks(keys) == Names().order_tasks(keys)
    assert [said.task_title(key, keys) for key in keys] == [Names().task_title(key, keys) for key in keys]
