"""Real training of a pack whose process is killed without warning: its jobs go on from their checkpoints to what they would have become."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.scalearn.helpers import packs
from tests.scalearn.helpers.packs import difference, history, result
from tests.scalearn.helpers.small import data, job, save_backbone

TRAIN = """
import sys
from pathlib import Path
from tests.scalearn.training.test_killed_training import train
train(sys.argv[1], Path(sys.argv[2]))
"""
KILLS = (3, 11)
"""Records in the history at which the process is killed, a moment later."""
_DEADLINE = 240.0
"""Seconds that a process may take to get there, and to end."""


def train(backbone: str, directory: Path) -> None:
    rows = (data("domains/apple", train_rows=64),)
    configs = [job("adapter", rows, backbone, seed=seed, epochs=12, evaluate_every=2, learning_rate=2e-3) for seed in (0, 1)]
    assert [outcome.error for outcome in packs.train_pack(configs, directory, {})] == [None, None]


@pytest.mark.slow
@pytest.mark.fault
def test_killed_pack_resumes_from_its_checkpoints_and_ends_as_if_nothing_had_been(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, repository: Path
) -> None:
    backbone = save_backbone(tmp_path / "backbone", tokenizer)
    draw = random.Random(6)
    killed = tmp_path / "killed"
    for records in KILLS:
        log = tmp_path / f"{records}.log"
        with log.open("w") as file:
            command = [sys.executable, "-c", TRAIN, backbone, str(killed)]
            process = subprocess.Popen(command, cwd=repository, stdout=file, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + _DEADLINE
            while min(len(_records(killed / name)) for name in ("0", "1")) < records:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.005)
            time.sleep(draw.uniform(0.0, 0.05))
        finally:
            process.kill()
            ended = process.wait(60)
        assert ended == -signal.SIGKILL, "it was done before it was killed: this shows nothing"
        assert not list(killed.rglob("result.json"))
    # In processes of their own like the killed ones: other tests may have changed this one's number of threads, and with it the sums.
    for directory in (killed, tmp_path / "whole"):
        command = [sys.executable, "-c", TRAIN, backbone, str(directory)]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=_DEADLINE)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("0", "1"):
        resumed, whole = killed / name, tmp_path / "whole" / name
        # No more than rounding: killed between two checkpoints, one job goes on a step behind the other and ends alone.
        assert difference(resumed, whole) < 1e-6
        splits = zip(*(result(path)["scores"]["domains/apple"].values() for path in (resumed, whole)), strict=True)
        assert all(ours == pytest.approx(theirs, rel=1e-5) for ours, theirs in splits)
        assert [record["step"] for record in history(resumed)] == [record["step"] for record in history(whole)]


def _records(directory: Path) -> list[str]:
    file = directory / "history.jsonl"
    return file.read_text().splitlines() if file.exists() else []
