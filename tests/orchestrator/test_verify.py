"""`scalearn verify`: what is damaged is found and named, and nothing is written."""

import json

import pytest

from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.storage.store import Store
from tests.orchestrator.doubles import run_jobs
from tests.orchestrator.launch import SWEEP


@pytest.fixture
def finished(tmp_path) -> tuple[list[str], Store, Graph]:
    """A finished toy sweep: the arguments that name it, its store and its graph."""
    (tmp_path / "toy.yaml").write_text(SWEEP)
    store, graph = Store(tmp_path / "runs"), Sweep.load(tmp_path / "toy.yaml").expand()
    run_jobs(graph, store)
    return [str(tmp_path / "toy.yaml"), "--store", str(store.root)], store, graph


def node(graph: Graph, part: str) -> str:
    (found,) = [name for name in graph.nodes() if part in name]
    return found


def test_verify_whole_sweep_ends_with_0(finished, capsys):
    arguments, _, graph = finished
    assert main(["verify", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [f"toy: {len(graph)} jobs: {len(graph)} whole."]


def test_verify_damaged_artifacts_are_named_with_what_is_built_on_them_and_nothing_changes(finished, capsys):
    arguments, store, graph = finished
    flipped, cut, gone, half = (
        node(graph, part) for part in ("adapter/airlines", "apple/lr6e-03-seed1", "adapter/bbc", "scalearn/bbc/lr6e-03-seed1")
    )
    file = store.directory(flipped) / "adapter" / "weights.safetensors"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    (store.directory(cut) / "transfer" / "weights.safetensors").write_bytes(b"")
    (store.directory(gone) / "result.json").unlink()
    (store.directory(half) / "SUCCESS.json").write_text('{"schema": 1, "files": {"resu')
    before = {name: facts["size"] for name, facts in store.storage.listing(store.root).items()}
    assert main(["verify", *arguments]) == 1
    printed = capsys.readouterr().out
    assert f"damaged  {flipped}: adapter/weights.safetensors does not match its sha256" in printed
    assert f"damaged  {cut}: transfer/weights.safetensors has 0 bytes and not 4096" in printed
    assert f"damaged  {gone}: result.json is missing" in printed
    assert f"damaged  {half}: SUCCESS.json is not readable" in printed
    assert f"{node(graph, 'scalearn_uniform/bbc')} is built on it" in printed
    assert {name: facts["size"] for name, facts in store.storage.listing(store.root).items()} == before


def test_verify_as_json_lists_every_job(finished, capsys):
    arguments, store, graph = finished
    damaged = node(graph, "adapter/airlines")
    (store.directory(damaged) / "result.json").write_text("{}")
    assert main(["verify", *arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["by_state"] == {"complete": len(graph) - 1, "corrupt": 1}
    (row,) = [row for row in found["nodes"] if row["state"] == "corrupt"]
    assert (row["node"], row["reason"]) == (damaged, "result.json has 2 bytes and not " + str(recorded(store, damaged)))
    assert sorted(name for name in graph.nodes() if damaged in graph.parents(name)) == row["built_on_it"]


def recorded(store: Store, damaged: str) -> int:
    return store.read_json(damaged, "SUCCESS.json")["files"]["result.json"]["size"]


def test_verify_sweep_that_has_not_begun_ends_with_0(tmp_path, capsys):
    (tmp_path / "toy.yaml").write_text(SWEEP)
    assert main(["verify", str(tmp_path / "toy.yaml"), "--store", str(tmp_path / "runs")]) == 0
    assert "10 not begun" in capsys.readouterr().out
