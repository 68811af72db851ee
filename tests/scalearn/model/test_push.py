"""An exported adapter on a hub: created, updated, refused, cut off, and read back. The hub is one on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerFast

from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from tests.scalearn.helpers.graphs import ONE_TARGET, train_graph
from tests.scalearn.helpers.hub import running_hub
from tests.scalearn.helpers.small import save_backbone

# One process, since the library reads HF_ENDPOINT when it is imported. It prints a line of JSON per step.
SCRIPT = """
import contextlib, io, json, sys
from orchestrator.cli import main
import scalearn

def export(*options):
    told, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(error):
        code = main(["export", "toy.yaml", "--best", *options])
    print(json.dumps([code, told.getvalue(), error.getvalue()]), flush=True)

export("--push", "anna/apple", "--private", "--license", "mit")
export("--push", "anna/apple", "--license", "cc-by-4.0")
export("--push", "anna/open")
export("--push", "anna/open", "--private")
export("--push", "berta/apple")
export("--push", "no name")
sys.stdin.readline()
export("--push", "anna/late")
export("--push", "anna/late")
local = scalearn.load_model("first", scalearn.load_backbone("backbone"))
read = scalearn.load_model("anna/apple")
texts = ["Apple ruined my phone again", "meh"]
same = [one.scores == two.scores for one, two in zip(local.predict(texts), read.predict(texts))]
sources = scalearn.load_source_adapters(read.encoder, {"apple": "anna/apple"})
print(json.dumps([same, list(sources.names), sources.width]), flush=True)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    root = tmp_path_factory.mktemp("push")
    backbone = save_backbone(root / "backbone", tokenizer)
    (root / "toy.yaml").write_text(ONE_TARGET.format(backbone=backbone))
    train_graph(Sweep.load(root / "toy.yaml").expand(), Store(root / "runs"))
    return root


def test_exported_adapter_is_created_updated_refused_and_read_back(finished: Path) -> None:
    script = SCRIPT.replace('"--push", "anna/apple", "--private"', '"--to", "first", "--push", "anna/apple", "--private"')
    with running_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(finished / "hub"),
            "HF_TOKEN": "hf_toy",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-c", script]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=finished, env=environment, **pipes) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            steps = [json.loads(process.stdout.readline()) for _ in range(6)]
            commits, hub.lose = hub.commits, 1
            process.stdin.write("\n")
            process.stdin.flush()
            steps += [json.loads(process.stdout.readline()) for _ in range(3)]
        repository = hub.repositories["anna/apple"]
    created, updated, opened, public, refused, unnamed, cut, again, read = steps
    assert created[0] == 0, created
    assert f"Uploaded to {hub.address}/anna/apple" in created[1]
    assert updated[0] == 0, updated
    assert opened[0] == 0
    assert hub.private == {"anna/apple"}
    assert (public[0], "already and public" in public[2]) == (2, True)
    assert (refused[0], refused[2].count("\n")) == (2, 1)
    assert "does not let you write to berta/apple" in refused[2]
    assert "hf_toy" not in refused[2]
    assert (unnamed[0], "no name of a repository" in unnamed[2]) == (2, True)
    assert commits == 3
    assert (cut[0], cut[2].count("\n")) == (2, 1)
    assert "could not be reached to the end" in cut[2]
    assert again[0] == 0, again
    assert hub.commits == 4
    assert read == [[True, True], ["apple"], 16]
    ((title, held),) = [(each["title"], [item["id"] for item in each["items"]]) for each in hub.collections.values()]
    assert title == "toy"
    assert held == ["anna/apple", "anna/open", "anna/late"]
    assert "in the collection 'toy'" in again[1]

    card = ModelCard(repository["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert {(each.dataset_split, each.metric_type) for each in card.data.eval_results} >= {("test", "macro_f1"), ("validation", "loss")}
    assert "name: toy\nbenchmark: domains" in card.text
    assert 'model.load_adapter("anna/apple")' in card.text
    assert {"adapter_config.json", "adapter.safetensors", "model_head.safetensors", "inputs.json"} <= repository.keys()
