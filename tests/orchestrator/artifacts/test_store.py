"""Artifacts on a real file system: committed, verified, damaged in every way, set aside."""

import json
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store, Verdict
from scalearn.errors import UserError

NODE = "toy/minilm/source/adapter/s0/lr6e-03-seed0-0123456789"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def finish(store: Store, node: str = NODE) -> Path:
    directory = store.begin(node, {"node": node, "config": {"seed": 0}})
    (directory / "adapter").mkdir(exist_ok=True)
    (directory / "adapter" / "weights.safetensors").write_bytes(b"\x01" * 4096)
    (directory / "history.jsonl").write_text('{"step": 1}\n')
    (directory / "result.json").write_text('{"scores": {}}')
    store.commit(node)
    return directory


def test_commit_lists_every_file_with_size_and_hash_and_drops_the_checkpoint(store):
    directory = store.begin(NODE, {})
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "state").write_text("x")
    finish(store)
    success = json.loads((directory / "SUCCESS.json").read_text())
    assert sorted(success["files"]) == ["adapter/weights.safetensors", "history.jsonl", "job.json", "result.json"]
    assert success["files"]["adapter/weights.safetensors"]["size"] == 4096
    assert len(success["files"]["result.json"]["sha256"]) == 64
    assert not (directory / "checkpoint").exists()
    assert store.verify(NODE) == Verdict("complete")
    assert store.state(NODE) == "succeeded"


def test_commit_without_result_refuses_and_leaves_the_node_undone(store):
    store.begin(NODE, {})
    with pytest.raises(FileNotFoundError, match="left no result"):
        store.commit(NODE)
    assert store.verify(NODE).state == "unfinished"
    assert store.state(NODE) == "pending"


def truncate(directory: Path) -> None:
    (directory / "adapter" / "weights.safetensors").write_bytes(b"\x01" * 100)


def flip_one_bit(directory: Path) -> None:
    file = directory / "adapter" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content)


def delete(directory: Path) -> None:
    (directory / "adapter" / "weights.safetensors").unlink()


def cut_marker(directory: Path) -> None:
    marker = directory / "SUCCESS.json"
    marker.write_bytes(marker.read_bytes()[:-30])


def empty_marker(directory: Path) -> None:
    (directory / "SUCCESS.json").write_text("{}")


def list_outside(directory: Path) -> None:
    marker = directory / "SUCCESS.json"
    content = json.loads(marker.read_text())
    content["files"]["../../../secret"] = {"size": 1, "sha256": "0"}
    marker.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "adapter/weights.safetensors has 100 bytes and not 4096"),
        (flip_one_bit, "adapter/weights.safetensors does not match its sha256"),
        (delete, "adapter/weights.safetensors is missing"),
        (cut_marker, "SUCCESS.json is not readable"),
        (empty_marker, "SUCCESS.json is not readable"),
        (list_outside, "SUCCESS.json is not readable"),
    ],
)
def test_verify_damaged_artifact_names_the_file_and_what_is_wrong(store, damage, reason):
    damage(finish(store))
    assert store.verify(NODE) == Verdict("corrupt", reason)


def test_set_aside_moves_every_file_and_says_why(store):
    directory = finish(store)
    flip_one_bit(directory)
    place = store.set_aside(NODE, "a bit was flipped")
    assert store.verify(NODE).state == "absent"
    assert not directory.exists()
    assert {".set_aside"} == {path.name for path in store.root.iterdir() if path.name.startswith(".")}
    kept = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert kept == {"SET_ASIDE.txt", "SUCCESS.json", "adapter/weights.safetensors", "history.jsonl", "job.json", "result.json"}
    assert (place / "SET_ASIDE.txt").read_text() == "a bit was flipped\n"


def test_set_aside_twice_keeps_both(store):
    finish(store)
    first = store.set_aside(NODE, "one")
    finish(store)
    assert store.set_aside(NODE, "two") != first
    assert (first / "result.json").exists()


def test_failure_leaves_first_line_traceback_and_attempts(store):
    store.begin(NODE, {})
    store.begin(NODE, {})
    store.fail(NODE, "ValueError: no\nmore of it", "Traceback ...\n")
    failed = store.read_json(NODE, "FAILED.json")
    assert (failed["error"], failed["attempts"]) == ("ValueError: no", 2)
    assert (store.directory(NODE) / failed["traceback_file"]).read_text() == "Traceback ...\n"
    assert store.state(NODE) == "failed"
    assert store.verify(NODE) == Verdict("failed", "ValueError: no")


def test_begin_again_forgets_the_failure_and_keeps_checkpoint_and_beginning(store):
    directory = store.begin(NODE, {})
    started = store.read_json(NODE, "job.json")["started"]
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "state").write_text("x")
    store.fail(NODE, "x", "x")
    store.begin(NODE, {})
    assert store.state(NODE) == "pending"
    assert (directory / "checkpoint" / "state").exists()
    assert store.read_json(NODE, "job.json")["started"] == started


def test_success_after_failure_wins(store):
    store.begin(NODE, {})
    store.fail(NODE, "x", "x")
    finish(store)
    assert store.state(NODE) == "succeeded"


@pytest.mark.parametrize("node", ["../outside", "/etc/passwd", "a//b", "a/../../b", ".hidden/x", "", "a/\0", "a\\..\\b"])
def test_directory_of_a_name_that_leaves_the_store_is_refused(store, node):
    with pytest.raises(ValueError, match="not the name of a node"):
        store.directory(node)


def test_root_is_fixed_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "runs"


def test_namesakes_are_the_records_at_the_same_path(store):
    finish(store)
    finish(store, NODE[:-10] + "abcdefabcd")
    finish(store, "toy/minilm/source/adapter/s0/lr6e-03-seed01-0123456789")
    assert [record["node"][-10:] for record in store.namesakes(NODE[:-11])] == ["0123456789", "abcdefabcd"]
    assert store.namesakes("toy/minilm/source/adapter/s9/lr1") == []


def test_unwritable_store_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to: .*--store"):
        Store(tmp_path / "file" / "runs").check_writable()


def test_writable_store_is_left_without_a_trace(store):
    store.check_writable()
    assert list(store.root.iterdir()) == []


def test_url_of_an_unknown_kind_is_a_sentence():
    with pytest.raises(UserError, match=r"The store nothing://bucket/runs .*name a directory, or a URL"):
        Store("nothing://bucket/runs")
