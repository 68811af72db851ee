"""Real training on Ray whose workers are killed: the sweep ends by itself, with the bits of one that nothing happened to."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from tests.orchestrator.helpers.launching import wait_until
from tests.scalearn.helpers.small import byte_tokenizer, save_backbone

SWEEP = """
name: killed
benchmark: domains
backbone: {backbone}
data: {{train_rows: 40, evaluation_rows: 20, max_length: 24}}
sources: {{tasks: [apple]}}
targets: [apple]
packing: {{size: 1}}
methods:
  scalearn_pp: {{}}
training: {{epochs: 100, patience: null, batch_size: 8, precision: fp32}}
resources: {{attention: sdpa, gradient_checkpointing: true}}
"""
"""One source and one job that waits for it, with an evaluation and a checkpoint every five steps."""


def weights(store: Store, node: str) -> dict[str, str]:
    """The hashes under which the files of a job's weights were committed."""
    success = store.read_json(node, "SUCCESS.json")
    assert success is not None
    return {name: entry["sha256"] for name, entry in success["files"].items() if name.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.fault
def test_sweep_whose_training_workers_are_killed_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, shared_ray: str, repository: Path, started: list[Any]
) -> None:
    backbone = tmp_path / "backbone"
    save_backbone(backbone, byte_tokenizer())
    config = AutoConfig.from_pretrained(backbone)
    config.attention_probs_dropout_prob = 0.0  # which sdpa would not draw again alike
    config.save_pretrained(backbone)
    file = tmp_path / "killed.yaml"
    file.write_text(SWEEP.format(backbone=backbone))
    stores = {name: Store(tmp_path / name) for name in ("disturbed", "undisturbed")}
    for name, store in stores.items():
        command = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--store", store.url]
        environment = {**os.environ, "RAY_ADDRESS": shared_ray, "PYTHONPATH": str(repository)}
        with (tmp_path / f"{name}.txt").open("w") as output:
            started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output, text=True))
    nodes = Sweep.load(file).expand().nodes()
    assert len(nodes) == 2
    for node in nodes:
        directory = stores["disturbed"].root / node
        signs = [directory / "checkpoint/latest.json", directory / "SUCCESS.json"]
        wait_until(lambda signs=signs: any(sign.exists() for sign in signs) or started[0].poll() is not None)
        job = stores["disturbed"].read_json(node, "job.json")
        assert job is not None, (tmp_path / "disturbed.txt").read_text()
        assert not (directory / "SUCCESS.json").exists(), "it was done before it was killed: this shows nothing"
        os.kill(job["provenance"]["pid"], signal.SIGKILL)
    for name, process in zip(stores, started, strict=True):
        assert process.wait(timeout=300) == 0, (tmp_path / f"{name}.txt").read_text()
    for node in nodes:
        attempts = [(store.read_json(node, "job.json") or {})["attempts"] for store in stores.values()]
        assert attempts == [2, 1]
        disturbed, undisturbed = (weights(store, node) for store in stores.values())
        assert disturbed == undisturbed != {}
        result = stores["disturbed"].result(node)
        assert result is not None
        assert (result["attention"], result["gradient_checkpointing"]) == ("sdpa", True), "what the sweep says reaches the worker"
