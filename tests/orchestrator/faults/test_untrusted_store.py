"""A store that a stranger could write to: whatever its files say ends as "not done" or as an error, in bounded memory, and runs no code."""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import analysis
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.watching.plan import plan
from orchestrator.watching.status import read_status
from scalearn.config import DataConfig
from scalearn.data import load_task, read
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import run_jobs, source
from tests.orchestrator.helpers.drivers import prepare
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP

NODE = source("s0").node
DEEP = b"[" * 200_000 + b"]" * 200_000

BAD_MARKERS = {
    "empty": b"",
    "half": b'{"schema": 1, "files": {"result.js',
    "no object": b"[]",
    "null": b"null",
    "not text": b"\xff\xfe\x00\x01" * 50,
    "zeros": b"\0" * 4096,
    "deep": DEEP,
    "deep below": b'{"files": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "NaN": b'{"files": {"result.json": {"size": NaN}}}',
    "infinity": b'{"files": {"result.json": {"size": 1e999}}}',
    "very long number": b'{"files": {"result.json": {"size": ' + b"9" * 100_000 + b"}}}",
    "files is a list": b'{"files": ["result.json"]}',
    "an entry is a number": b'{"files": {"result.json": 5}}',
    "no result": b'{"files": {"job.json": {"size": 1, "sha256": ""}}}',
    "above": b'{"files": {"result.json": {}, "../../../secret": {}}}',
    "absolute": b'{"files": {"result.json": {}, "/etc/passwd": {}}}',
    "above in the middle": b'{"files": {"result.json": {}, "adapter/../../../secret": {}}}',
    "backslashes": b'{"files": {"result.json": {}, "..\\\\..\\\\secret": {}}}',
    "a null in a name": b'{"files": {"result.json": {}, "a\\u0000b": {}}}',
    "an empty name": b'{"files": {"result.json": {}, "": {}}}',
    "half a character": b'{"files": {"result.json": {}, "a\\ud800b": {}}}',
}


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Store, Graph]:
    """A finished small sweep: its file, store and graph."""
    file = tmp_path / "toy.yaml"
    file.write_text(SMALL_SWEEP)
    store, graph = Store(tmp_path / "runs"), Sweep.load(file).expand()
    run_jobs(graph, store)
    return file, store, graph


@contextlib.contextmanager
def little_memory(more: int = 1 << 30):
    """Let this process take no more than a gigabyte beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("content", BAD_MARKERS.values(), ids=BAD_MARKERS.keys())
def test_marker_that_we_did_not_write_in_full_is_not_done(tmp_path, content):
    store = Store(tmp_path)
    directory = store.begin(NODE, {})
    (directory / "result.json").write_text("{}")
    (directory / "SUCCESS.json").write_bytes(content)
    assert not store.complete(NODE)
    assert store.verify(NODE).state == "corrupt"
    assert store.verify(NODE).reason == "SUCCESS.json is not readable"


@pytest.mark.parametrize("name", ["job.json", "SUCCESS.json", "FAILED.json", "result.json"])
def test_enormous_file_is_not_read(finished, name):
    file, store, graph = finished
    place = store.directory(graph.nodes()[0]) / name
    place.touch()
    os.truncate(place, 100 << 30)  # a sparse file: it takes no room, and reading it all would take any memory
    with little_memory():
        assert main(["status", str(file), "--store", store.url]) == 0
        assert main(["plan", str(file), "--store", store.url]) == 0
        with contextlib.suppress(analysis.ResultsError):
            analysis.load(store.url)


@pytest.mark.parametrize("kind", ["pipe", "directory", "loop"])
@pytest.mark.parametrize("name", ["job.json", "SUCCESS.json", "FAILED.json"])
def test_something_else_in_the_place_of_a_file_neither_hangs_nor_crashes(tmp_path, name, kind):
    store = Store(tmp_path)
    place = store.directory(NODE) / name
    place.parent.mkdir(parents=True)
    {"pipe": os.mkfifo, "directory": os.mkdir, "loop": lambda path: os.symlink(path, path)}[kind](place)
    assert store.state(NODE) == "pending"
    assert store.verify(NODE).state in ("absent", "corrupt", "unfinished")
    store.set_aside(NODE, "what is this?")
    assert store.verify(NODE).state == "absent"


def outside(tmp_path: Path) -> Path:
    """Somebody's file and directory, which no link in a store may bring into danger."""
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "weights.safetensors").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "mine" / "deep" / "keep").write_text("keep")
    return tmp_path / "mine"


@pytest.mark.parametrize("linked", ["a file", "a folder", "the node"])
def test_link_out_of_the_store_is_damage_and_what_it_names_is_left_alone(finished, tmp_path, linked):
    _, store, graph = finished
    mine, directory = outside(tmp_path), store.directory(graph.nodes()[0])
    if linked == "a file":
        (directory / "adapter" / "weights.safetensors").unlink()
        (directory / "adapter" / "weights.safetensors").symlink_to(mine / "weights.safetensors")
    elif linked == "a folder":
        (directory / "adapter" / "weights.safetensors").unlink()
        (directory / "adapter").rmdir()
        (directory / "adapter").symlink_to(mine)
    else:
        directory.rename(mine / "node")
        directory.symlink_to(mine / "node")
    assert store.verify(graph.nodes()[0]).state == "corrupt"
    fresh = Sweep.load(tmp_path / "toy.yaml").expand()
    prepare(fresh, store)
    assert store.verify(graph.nodes()[0]).state == "absent"
    assert (mine / "weights.safetensors").read_bytes() == bytes(range(256)) * 16
    assert (mine / "deep" / "keep").read_text() == "keep"
    assert linked != "the node" or (mine / "node" / "result.json").exists()


def test_checkpoint_whose_header_claims_a_terabyte_is_none(tmp_path):
    from scalearn.training.checkpoint import load_checkpoint

    folder = tmp_path / "checkpoint" / "step-00000001-x"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoint" / "latest.json").write_text(json.dumps({"folder": folder.name, "state": {}}))
    for claimed in (1 << 40, 1 << 63, 100_000_000):
        (folder / "state.safetensors").write_bytes(claimed.to_bytes(8, "little") + b"{}")
        with little_memory():
            assert load_checkpoint(tmp_path) is None


def test_parquet_file_that_expands_to_terabytes_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "_ALWAYS_ALLOWED", 64 << 20)
    place = tmp_path / "glue" / "rte" / "train.parquet"
    place.parent.mkdir(parents=True)
    rows, long = 10_000_000, pa.array(["x" * 100_000])
    table = pa.table({"sentence1": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), long), "label": np.zeros(rows, np.int8)})
    pq.write_table(table, place, store_schema=False)  # without it a reader does not know to leave the repetition folded
    shutil.copy(place, place.with_name("validation.parquet"))
    assert place.stat().st_size < 1 << 20
    with little_memory(), pytest.raises(UserError, match=r"train.parquet is broken .*its rows take more than \d+ MiB, \d+ times its own"):
        load_task(DataConfig("glue/rte", "test"), root=tmp_path)


def test_pickle_in_a_job_is_never_loaded(finished, tmp_path):
    _, store, graph = finished
    node = graph.nodes()[0]
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    for name in ("result.json", "adapter/weights.safetensors", "adapter/pytorch_adapter.bin", "job.json"):
        (store.directory(node) / name).write_bytes(bomb)
    assert store.verify(node).state == "corrupt"
    with contextlib.suppress(analysis.ResultsError):
        analysis.load(store.url)
    assert not (tmp_path / "executed").exists()


SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
KEYS = st.sampled_from(
    [
        "scores",
        "timing",
        "parameters",
        "config",
        "parents",
        "error",
        "attempts",
        "started",
        "files",
        "result.json",
        "data",
        "task",
        "x",
        "../y",
    ]
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["job.json", "result.json", "SUCCESS.json", "FAILED.json"]), st.dictionaries(KEYS, VALUES, max_size=6))
def test_json_of_any_shape_never_ends_in_a_traceback(finished, name: str, value: dict[str, Any]):
    _, store, graph = finished
    place = store.directory(graph.nodes()[-1]) / name
    before = place.read_bytes() if place.exists() else None
    place.write_text(json.dumps(value))
    if name == "FAILED.json":
        (place.parent / "SUCCESS.json").rename(place.parent / "away")
    try:
        fresh = graph.restrict("")
        read_status("toy", fresh, store).to_json()
        plan("toy", graph, store).to_json()
        assert store.verify(graph.nodes()[-1]).state != "absent"
        with contextlib.suppress(analysis.ResultsError):
            analysis.load(store.url)
    finally:
        place.unlink() if before is None else place.write_bytes(before)
        if name == "FAILED.json":
            (place.parent / "away").rename(place.parent / "SUCCESS.json")


def test_manifest_that_names_places_outside_is_refused(finished, tmp_path):
    _, store, _ = finished
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "job.json").write_text('{"config": {"benchmark": "stolen"}}')
    store.write_json(store.manifest_path("toy"), {"name": "toy", "nodes": [{"node": "../secret"}]})
    with pytest.raises(analysis.ResultsError, match=r"toy.json names '../secret', which is no job of this store"):
        analysis.load(store.url, sweep="toy")
