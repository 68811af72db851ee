"""Drivers beside each other in one store: whose name it is, whose table is shown, and what nobody may take away. No job runs here."""

import json
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import content_of, keep_apart, write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.events import Journal
from orchestrator.drivers.others import refuse_name
from orchestrator.execution import run as run_module
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP

LARGER = SMALL_SWEEP.replace("scalearn_uniform: {}", "scalearn_uniform: {seeds: [0, 1]}")
OTHER = SMALL_SWEEP.replace("sources: {tasks: [airlines, apple]}", "sources: {tasks: [airlines, coachella]}")
"""A sweep of the same name that shares one job."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which all jobs of three versions of a sweep are done, of which none has been run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store = Store(tmp_path / "runs")
    for name, text in {"small": SMALL_SWEEP, "larger": LARGER, "other": OTHER}.items():
        Path(f"{name}.yaml").write_text(text)
        run_jobs(graph_of(name), store)
    return store


def graph_of(name: str) -> Graph:
    return Sweep.load(f"{name}.yaml").expand()


def named(store: Store, sweep: str) -> set[str]:
    return {entry["node"] for entry in (store.load_json(store.manifest_path(sweep)) or {"nodes": []})["nodes"]}


def run(name: str, *flags: str) -> int:
    return main(["run", f"{name}.yaml", "--store", "runs", *flags])


def test_name_that_a_living_driver_has_for_other_jobs_is_refused_and_nothing_changes(store, capsys):
    with Journal(store, "toy", graph_of("small"), content=content_of(graph_of("small").nodes())):
        assert run("other") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"scalearn: Another sweep named 'toy' with other jobs is being run in {store.url} by the driver on ")
        assert said.count("\n") == 1
        assert named(store, "toy") == set()
        refuse_name(store, "toy", content_of(graph_of("small").nodes()))  # the same sweep may have several
    refuse_name(store, "toy", content_of(graph_of("other").nodes()))


@pytest.mark.slow
def test_sweep_of_a_name_that_another_had_is_kept_apart_and_both_can_be_reported(store, capsys):
    assert run("small") == 0
    assert run("other") == 0
    kept = f"toy-{content_of(graph_of('small').nodes())}"
    assert f"its manifest is now {kept}.json" in capsys.readouterr().out
    assert named(store, "toy") == set(graph_of("other").nodes())
    assert named(store, kept) == set(graph_of("small").nodes())
    assert main(["report", f"runs/sweeps/{kept}.json"]) == 0
    assert f"reports/{kept}/index.html" in capsys.readouterr().out
    everything = {node for name in ("small", "other", "larger") for node in graph_of(name).nodes()}
    assert main(["prune", "runs", "--minutes", "0", "--yes"]) == 0
    left = {node for node in everything if store.complete(node)}
    assert left == {*graph_of("small").nodes(), *graph_of("other").nodes()}
    assert main(["prune", "runs", "other.yaml", "--minutes", "0", "--yes"]) == 0
    assert {node for node in everything if store.complete(node)} == set(graph_of("other").nodes())


def test_extended_sweep_takes_the_place_of_what_it_was(store):
    small, larger = (Sweep.load(f"{name}.yaml") for name in ("small", "larger"))
    kept = []
    for sweep in (small, larger, small):  # a file that names fewer again, for a look: the rest stays named
        kept.append(keep_apart("toy", sweep.expand(), store))
        write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
        assert named(store, "toy") == set(sweep.expand().nodes())
    assert kept == [None, None, f"toy-{content_of(larger.expand().nodes())}"]
    assert named(store, kept[2]) == set(larger.expand().nodes())


@pytest.mark.slow
def test_driver_whose_name_another_took_while_it_seemed_dead_reports_its_own_jobs(store, monkeypatch, capsys):
    pending, other = run_module._run_pending, Sweep.load("other.yaml")

    def wake_up_late(*arguments: object) -> int:
        keep_apart("toy", other.expand(), store)
        write_manifest(other, other.expand(), store, "sqlite://", None)
        return pending(*arguments)

    monkeypatch.setattr(run_module, "_run_pending", wake_up_late)
    assert run("small") == 0
    own = f"toy-{content_of(graph_of('small').nodes())}"
    assert f"runs/sweeps/{own}.json" in capsys.readouterr().out
    assert named(store, own) == set(graph_of("small").nodes())
    assert named(store, "toy") == set(graph_of("other").nodes())
    jobs = (store.root / "reports" / own / "tables" / "jobs.csv").read_text()
    assert "coachella" not in jobs
    assert "apple" in jobs


def test_force_leaves_alone_what_a_living_driver_may_have_counted_as_done(store, capsys):
    mine = graph_of("small").nodes()[0]
    other = Sweep.load("other.yaml")
    write_manifest(other, other.expand(), store, "sqlite://", None)
    store.manifest_path("toy").rename(store.manifest_path("elsewhere"))
    assert mine in named(store, "elsewhere")
    before = json.loads((store.directory(mine) / "SUCCESS.json").read_text())
    with Journal(store, "elsewhere", other.expand()):
        assert run("small", "--force", "--only", "source/adapter/airlines") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"scalearn: {mine} belongs to sweep 'elsewhere', which the driver on ")
        assert said.count("\n") == 1
    assert json.loads((store.directory(mine) / "SUCCESS.json").read_text()) == before
    assert not (store.root / ".set_aside").exists()
