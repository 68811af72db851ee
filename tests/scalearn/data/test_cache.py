"""The cache of token ids: built once, shared, verified, never half there."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from scalearn.config import DataConfig
from scalearn.data import tokenised
from scalearn.errors import UserError

COLA = DataConfig("glue/cola", "test", train_rows=200, evaluation_rows=50)


class Counting:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.calls, self.model_input_names = tokenizer, 0, tokenizer.model_input_names

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.tokenizer(*args, **kwargs)


def entries(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.rglob("entry.json"))


def test_second_reading_tokenises_nothing_reads_no_data_and_is_equal(
    shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    counting = Counting(tokenizer)
    first = tokenised(COLA, counting, "bytes", root=shared / "benchmarks", cache=tmp_path)
    calls = counting.calls
    second = tokenised(COLA, counting, "bytes", root=tmp_path / "absent", cache=tmp_path)
    assert calls > 0
    assert counting.calls == calls
    assert {name: rows.to_list() for name, rows in first.splits.items()} == {name: rows.to_list() for name, rows in second.splits.items()}
    assert (first.num_labels, first.label_names) == (second.num_labels, second.label_names)


def test_cached_rows_equal_rows_in_memory_and_are_memory_mapped(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for key in ("super_glue/copa", "super_glue/record", "super_glue/multirc"):
        config = DataConfig(key, "test", train_rows=10, evaluation_rows=10, max_length=1000)
        mapped = tokenised(config, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
        plain = tokenised(config, tokenizer, "bytes", root=shared / "benchmarks", cache=None)
        for name, rows in mapped.splits.items():
            assert rows.to_list() == plain.splits[name].to_list()
            assert rows.features == plain.splits[name].features
            assert rows.cache_files[0]["filename"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "identity", "splits"),
    [
        ({}, "other", {"train", "validation", "test"}),
        ({"max_length": 64}, "bytes", {"train", "validation", "test"}),
        ({"origin": "newer"}, "bytes", {"train", "validation", "test"}),
        ({"train_rows": 100}, "bytes", {"train"}),
        ({"evaluation_rows": 40}, "bytes", {"validation", "test"}),
        ({"train_share": 0.5}, "bytes", {"train", "validation"}),
        ({"few_shot": 16}, "bytes", {"train", "validation"}),
        ({"rows_kept": 0.25}, "bytes", {"train"}),
        ({"labels_shuffled": 0.5}, "bytes", {"train"}),
        ({}, "bytes", set()),
    ],
)
def test_what_changes_the_ids_makes_new_entries_and_nothing_else_does(
    changes: dict[str, Any], identity: str, splits: set[str], shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
    before = set(entries(tmp_path))
    tokenised(replace(COLA, **changes), tokenizer, identity, root=shared / "benchmarks", cache=tmp_path)
    assert {path.name.partition("-")[0] for path in set(entries(tmp_path)) - before} == splits


@pytest.mark.parametrize("damage", ["flip", "truncate", "entry", "missing"])
def test_damaged_entry_is_named_and_built_again(damage: str, shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    first = tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path).splits["train"].to_list()
    entry = next(path for path in entries(tmp_path) if path.name.startswith("train-"))
    rows = entry / "rows.arrow"
    match damage:
        case "flip":
            content = bytearray(rows.read_bytes())
            content[len(content) // 2] ^= 0xFF
            rows.write_bytes(bytes(content))
        case "truncate":
            rows.write_bytes(rows.read_bytes()[:-100])
        case "entry":
            (entry / "entry.json").write_text("{")
        case "missing":
            rows.unlink()
    with pytest.warns(UserWarning, match=rf"{entry} are damaged"):
        again = tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
    assert again.splits["train"].to_list() == first
    assert len(entries(tmp_path)) == 3


def test_failure_while_building_leaves_no_entry(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    class Failing(Counting):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if self.calls == 1:
                raise RuntimeError("no memory")
            return super().__call__(*args, **kwargs)

    config = replace(COLA, train_rows=600)
    with pytest.raises(RuntimeError, match="no memory"):
        tokenised(config, Failing(tokenizer), "bytes", root=shared / "benchmarks", cache=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []
    tokenised(config, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
    assert len(entries(tmp_path)) == 3


def test_cache_that_cannot_be_made_is_one_sentence(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match="cannot be written"):
        tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path / "file")


def _reader(root: Path, cache: Path, tokenizer: PreTrainedTokenizerFast, start: Any, results: Any) -> None:
    counting = Counting(tokenizer)
    start.wait()
    task = tokenised(COLA, counting, "bytes", root=root, cache=cache)
    results.put((counting.calls, task.splits["train"]["input_ids"][:]))


def test_eight_processes_at_once_build_once(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(8), context.Queue()
    readers = [
        context.Process(target=_reader, args=(shared / "benchmarks", tmp_path, tokenizer, start, results), daemon=True) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    answers = [results.get(timeout=120) for _ in readers]
    for reader in readers:
        reader.join()
    builders = [calls for calls, _ in answers if calls]
    assert len(builders) == 1, f"{len(builders)} processes tokenised"
    assert all(rows == answers[0][1] for _, rows in answers)


_SLOW_BUILDER = """
import sys, time
from pathlib import Path
from scalearn.config import DataConfig
from scalearn.data import tokenised
class Slow:
    model_input_names = ["input_ids", "attention_mask"]
    def __call__(self, firsts, seconds, **kwargs):
        print("building", flush=True)
        time.sleep(600)
cola = DataConfig("glue/cola", "test", train_rows=200, evaluation_rows=50)
tokenised(cola, Slow(), "bytes", root=Path(sys.argv[1]), cache=Path(sys.argv[2]))
"""


@pytest.mark.fault
def test_killed_builder_blocks_nobody_and_its_remains_are_removed(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    arguments = [sys.executable, "-c", _SLOW_BUILDER, str(shared / "benchmarks"), str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        assert list(tmp_path.rglob("*.unfinished"))
        builder.send_signal(signal.SIGKILL)
    task = tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
    assert len(task.splits["train"]) == 200
    assert not list(tmp_path.rglob("*.unfinished"))


def test_entry_states_what_it_holds(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenised(COLA, tokenizer, "bytes", root=shared / "benchmarks", cache=tmp_path)
    entry = json.loads((next(path for path in entries(tmp_path) if path.name.startswith("train-")) / "entry.json").read_text())
    assert entry["rows"] == 200
    assert entry["settings"]["task"] == "glue/cola"
    assert entry["label_names"] == ["unacceptable", "acceptable"]


_LOCAL_READER = """
import sys
from pathlib import Path
from scalearn.config import DataConfig
from scalearn.data import tokenised
class Lengths:
    model_input_names = ["input_ids", "attention_mask"]
    def __call__(self, firsts, seconds, **kwargs):
        return {"input_ids": [[len(text)] for text in firsts], "attention_mask": [[1] for _ in firsts]}
cola = DataConfig("glue/cola", "test", train_rows=20, evaluation_rows=20)
tokenised(cola, Lengths(), "lengths", root=Path(sys.argv[1]), cache=Path(sys.argv[2]))
"""


def test_local_data_writes_nothing_but_the_cache(shared: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    arguments = [sys.executable, "-c", _LOCAL_READER, str(shared / "benchmarks"), str(tmp_path / "cache")]
    subprocess.run(arguments, env={**kept, "HOME": str(home)}, cwd=home, check=True)
    assert list(home.rglob("*")) == []
    assert len(entries(tmp_path / "cache")) == 3
