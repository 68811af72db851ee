"""`scalearn verify`: what is damaged is found and named, and nothing is written."""

import json
import shutil
import uuid

import pytest

import analysis
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from tests.orchestrator.helpers.doubles import run_jobs, source
from tests.orchestrator.helpers.drivers import prepare
from tests.orchestrator.helpers.launch import SWEEP


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


@pytest.mark.parametrize("files", ["all", "without the marker", "of an older version"])
def test_directory_that_holds_another_job_is_damaged_wherever_it_is_read(finished, capsys, files):
    """As `cp -r` of one job's directory over another's leaves it."""
    arguments, store, graph = finished
    mine, other = node(graph, "adapter/airlines"), node(graph, "adapter/bbc")
    shutil.rmtree(store.directory(mine))
    shutil.copytree(store.directory(other), store.directory(mine))
    if files == "without the marker":
        (store.directory(mine) / "SUCCESS.json").unlink()
    if files == "of an older version":
        success = store.read_json(mine, "SUCCESS.json")
        del success["node"]
        store.write_json(store.directory(mine) / "SUCCESS.json", success)
    assert main(["verify", *arguments]) == 1
    assert f"damaged  {mine}: it holds the files of another job, {other}" in capsys.readouterr().out
    assert files == "of an older version" or not store.complete(mine)
    frame = analysis.load(store.url)
    assert set(frame[frame.node == mine].state) == {"failed"}
    assert frame[frame.node == mine].error.str.contains("is another job's: run the sweep again").all()
    fresh = Sweep.load(arguments[0]).expand()
    (moved,) = prepare(fresh, store)
    assert (moved.node, fresh.states[mine], fresh.states[other]) == (mine, "pending", "cached")


def test_directory_of_an_older_version_that_names_no_job_is_whole(finished, capsys):
    arguments, store, graph = finished
    for name in graph.nodes():
        success, job = (store.read_json(name, file) for file in ("SUCCESS.json", "job.json"))
        del success["node"], job["node"]
        store.write_json(store.directory(name) / "job.json", job)
        success["files"]["job.json"] = store.storage.size_and_hash(store.directory(name) / "job.json")
        store.write_json(store.directory(name) / "SUCCESS.json", success)
    assert main(["verify", *arguments]) == 0
    assert f"{len(graph)} whole" in capsys.readouterr().out
    assert set(analysis.load(store.url).state) == {"succeeded"}


def test_copy_of_another_job_behind_a_url_is_found_at_the_start_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path))
    store, jobs = Store(f"memory://{uuid.uuid4().hex}/runs"), [source(f"s{number}") for number in range(2)]
    mine, other = (job.node for job in jobs)
    for name in (mine, other):
        (store.begin(name, {"node": name}) / "result.json").write_text("{}")
        store.commit(name)
    for name in store.storage.listing(store.directory(mine)):
        store.storage.write(store.directory(mine) / name, store.storage.read(store.directory(other) / name))
    assert not store.complete(mine)
    (moved,) = prepare(Graph(jobs), store)
    assert (moved.node, moved.reason) == (mine, f"it holds the files of another job, {other}")
