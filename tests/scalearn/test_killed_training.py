"""Real training whose process is killed without warning: the job that goes on from the checkpoint ends with the same bits."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.scalearn.packs import difference, history, result
from tests.scalearn.small import data, job, run, save_backbone

TRAIN = "import sys; from pathlib import Path; from tests.scalearn.test_killed_training import train; train(sys.argv[1], Path(sys.argv[2]))"
KILLS = (3, 11)
"""Records in the history at which the process is killed, a moment later."""


def train(backbone: str, directory: Path) -> None:
    config = job("adapter", (data("domains/apple", train_rows=64),), backbone, epochs=12, evaluate_every=2, learning_rate=2e-3)
    assert run(config, directory).error is None


@pytest.mark.slow
@pytest.mark.fault
def test_killed_process_resumes_from_its_checkpoint_and_ends_with_the_same_bits(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, repository: Path
) -> None:
    backbone = save_backbone(tmp_path / "backbone", tokenizer)
    draw = random.Random(6)
    killed = tmp_path / "killed"
    for records in KILLS:
        process = subprocess.Popen([sys.executable, "-c", TRAIN, backbone, str(killed)], cwd=repository)
        while len(_records(killed)) < records:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed: this shows nothing"
        assert not (killed / "result.json").exists()
    # In processes of their own like the killed ones: other tests may have changed this one's number of threads, and with it the sums.
    for directory in (killed, tmp_path / "whole"):
        subprocess.run([sys.executable, "-c", TRAIN, backbone, str(directory)], cwd=repository, check=True)
    assert difference(killed, tmp_path / "whole") == 0.0
    assert result(killed)["scores"] == result(tmp_path / "whole")["scores"]
    assert [record["step"] for record in history(killed)] == [record["step"] for record in history(tmp_path / "whole")]


def _records(directory: Path) -> list[str]:
    file = directory / "history.jsonl"
    return file.read_text().splitlines() if file.exists() else []
