import json
import shutil
from pathlib import Path

import fsspec
import pytest

import analysis
from analysis.reading.frame import COLUMNS
from tests.analysis.helpers.build_store import StoreSpec, build_store


def test_load_complete_sweep_has_a_row_per_node_split_and_metric(complete_store: Path) -> None:
    frame = analysis.load(complete_store, sweep="demo")
    manifest = json.loads((complete_store / "sweeps" / "demo.json").read_text())
    assert set(frame["node"]) == {entry["node"] for entry in manifest["nodes"]}
    assert len(frame) == len(manifest["nodes"]) * 2 * 2
    assert not frame.duplicated(["node", "task", "split", "metric"]).any()
    assert set(frame["state"]) == {"succeeded"}
    one = frame[(frame["method"] == "scalearn") & (frame["split"] == "test") & frame["primary"]].iloc[0]
    assert (one["setting_omega_dropout"], one["train_rows"], one["sources"], one["source_count"]) == (
        0.3,
        240,
        "airlines,apple,coachella",
        3,
    )
    assert one["parameters_transfer"] == 384 * 6 * 3


def test_load_columns_are_documented_and_typed(complete_store: Path) -> None:
    frame = analysis.load(complete_store)
    undocumented = [column for column in frame.columns if column not in COLUMNS and not column.startswith("setting_")]
    assert undocumented == []
    assert {column: str(frame[column].dtype) for column in COLUMNS} == {column: dtype for column, (dtype, _) in COLUMNS.items()}


def test_load_manifest_path_equals_store_and_name(complete_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = analysis.load(complete_store, sweep="demo")
    assert analysis.load(complete_store / "sweeps" / "demo.json").equals(expected)
    monkeypatch.chdir(complete_store)
    assert analysis.load("sweeps/demo.json").equals(expected)


def test_load_broken_sweep_shows_every_state(broken_store: Path) -> None:
    frame = analysis.load(broken_store, sweep="demo").drop_duplicates("node")
    states = frame.set_index("node")["state"]
    assert states.value_counts().to_dict() == {"succeeded": 24, "failed": 3, "running": 1, "pending": 1}
    failed = frame[frame["state"] == "failed"]
    assert failed["error"].str.contains("nan at step 42").all()
    pending = frame[frame["state"] == "pending"].iloc[0]
    assert (pending["method"], pending["task"], pending["seed"], pending["learning_rate"]) == ("adapterfusion", "domains/apple", 1, 5e-5)


def test_load_failed_source_blocks_its_descendants_and_names_itself(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(states={"source/adapter/airlines": "failed"}))
    nodes = analysis.load(tmp_path, sweep="demo").drop_duplicates("node")
    transfer = nodes[nodes["stage"] == "transfer"]
    assert set(transfer["state"]) == {"blocked"}
    assert transfer["error"].str.contains("source/adapter/airlines").all()
    assert set(nodes[nodes["stage"] == "single"]["state"]) == {"succeeded"}


def test_load_half_written_result_counts_as_failed_and_hides_nothing(tmp_path: Path) -> None:
    build_store(tmp_path)
    damaged = next(tmp_path.glob("**/scalearn_pp/apple/*seed0*/result.json"))
    damaged.write_text(damaged.read_text()[:40])
    nodes = analysis.load(tmp_path, sweep="demo").drop_duplicates("node")
    bad = nodes[nodes["state"] == "failed"]
    assert len(bad) == 1
    assert "not valid JSON" in bad["error"].iloc[0]
    assert (nodes["state"] == "succeeded").sum() == len(nodes) - 1


def test_load_from_url_equals_load_from_directory(complete_store: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(complete_store) + "/", "/runs-copy/", recursive=True)
    assert analysis.load("memory://runs-copy", sweep="demo").equals(analysis.load(complete_store, sweep="demo"))


@pytest.mark.parametrize(
    ("store", "sweep", "said"),
    [
        ("nowhere", None, "There is no store at"),
        (".", "other", "no sweep named 'other' (it has: demo)"),
        ("demo.json", None, "not a sweep's manifest"),
    ],
)
def test_load_wrong_place_says_what_is_there(
    complete_store: Path, monkeypatch: pytest.MonkeyPatch, store: str, sweep: str | None, said: str
) -> None:
    monkeypatch.chdir(complete_store)
    with pytest.raises(analysis.ResultsError) as caught:
        analysis.load(store, sweep)
    assert said in str(caught.value)


def test_load_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(analysis.ResultsError, match="holds no jobs"):
        analysis.load(tmp_path)


def test_load_whole_store_reads_nodes_of_all_sweeps(tmp_path: Path) -> None:
    build_store(tmp_path)
    build_store(tmp_path / "other", StoreSpec(sweep="second", backbone="roberta-base"))
    for part in ("domains/roberta-base", "sweeps/second.json"):
        shutil.move(tmp_path / "other" / part, tmp_path / part)
    shutil.rmtree(tmp_path / "other")
    frame = analysis.load(tmp_path)
    assert set(frame["backbone"]) == {"minilm", "roberta-base"}
    assert set(analysis.load(tmp_path, sweep="second")["backbone"]) == {"roberta-base"}


def test_load_leaves_out_what_was_set_aside_and_the_drivers_own_files(tmp_path: Path) -> None:
    build_store(tmp_path)
    count = analysis.load(tmp_path)["node"].nunique()
    node = next(tmp_path.glob("**/scalearn_pp/apple/*seed0*"))
    shutil.copytree(node, tmp_path / ".set_aside" / "domains" / "old")
    shutil.copytree(node, tmp_path / "sweeps" / "demo" / "sidecar")
    assert analysis.load(tmp_path)["node"].nunique() == count


def test_load_joint_job_that_has_not_begun_has_a_row_per_task(tmp_path: Path) -> None:
    manifest = build_store(tmp_path)
    content = json.loads(manifest.read_text())
    node = "glue/roberta-base/joint/hyperformer/all/lr3e-04-seed0-0123456789"
    entry = {
        "node": node,
        "stage": "joint",
        "method": "hyperformer",
        "task": "glue/rte+glue/cola",
        "seed": 0,
        "learning_rate": 3e-4,
        "parents": [],
    }
    manifest.write_text(json.dumps(content | {"nodes": [*content["nodes"], entry]}))
    frame = analysis.load(manifest)
    assert frame[frame["node"] == node]["task"].tolist() == ["glue/rte", "glue/cola"]
