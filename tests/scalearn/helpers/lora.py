"""LoRAs with random weights on tiny encoders, and PEFT's own models with the same weights."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import AutoModel

from scalearn.backbone.encoder import Encoder
from scalearn.methods.lora import LoraBranch, LoraShape, target_sizes
from tests.scalearn.helpers import tiny


def random_lora(
    encoder: Encoder, targets: tuple[str, ...] = (), rank: int = 3, scale: float = 2.0, seed: int = 0, **shape: Any
) -> LoraBranch:
    """A LoRA whose B is not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = LoraBranch(LoraShape(target_sizes(encoder, targets), rank, scale * rank, **shape))
        for weight in branch.up:
            torch.nn.init.normal_(weight, std=0.3)
    return branch.eval()


def plain_model(encoder: Encoder) -> Any:
    """The same backbone as transformers builds it, without the adapters library."""
    model = AutoModel.from_config(encoder.config, attn_implementation="eager")
    own = encoder.model.base_model.state_dict()
    model.load_state_dict({name: own[name] for name in model.state_dict()})
    return model.eval()


def peft_model(encoder: Encoder, branch: LoraBranch, targets: list[str]) -> Any:
    """PEFT's model of the backbone with the branch's weights."""
    rank, scale = branch.shape.rank, branch.shape.scale
    config = peft.LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=targets)  # type: ignore[arg-type]
    model = peft.get_peft_model(plain_model(encoder), config)
    with torch.no_grad():
        for name, down, up in zip(branch.shape.modules, branch.down, branch.up, strict=True):
            module = model.base_model.model.get_submodule(name)
            module.lora_A["default"].weight.copy_(down)
            module.lora_B["default"].weight.copy_(up)
    return model.eval()


def save_lora(
    encoder: Encoder, directory: Path, targets: tuple[str, ...] = ("query", "value"), rank: int = 3, seed: int = 0, scale: float = 2.0
) -> LoraBranch:
    """A random LoRA, saved by PEFT itself."""
    branch = random_lora(encoder, targets, rank, scale, seed)
    peft_model(encoder, branch, list(targets)).save_pretrained(str(directory))
    return branch


ALONE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModel

backbone, adapter, merged, ids, output = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), adapter).eval()
if merged == "merged":
    model = model.merge_and_unload()
inputs = {name: torch.tensor(value) for name, value in json.loads(ids).items()}
with torch.no_grad():
    torch.save(model(**inputs).last_hidden_state, output)
assert not any(name.split(".")[0] in ("scalearn", "adapters") for name in sys.modules)
"""
"""What a user of PEFT runs, who has nothing of this package."""


def states_by_peft_alone(backbone: str, adapter: Path, inputs: dict[str, Tensor], *, merged: bool = False) -> Tensor:
    """First tokens' last hidden states `[rows, hidden]`, computed by a fresh process that has only transformers and PEFT."""
    with tempfile.TemporaryDirectory() as folder:
        ids = json.dumps({name: tensor.tolist() for name, tensor in inputs.items()})
        output = Path(folder) / "states"
        command = [sys.executable, "-c", ALONE, backbone, str(adapter), "merged" if merged else "beside", ids, str(output)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert "missing" not in ran.stderr.lower(), ran.stderr
        states: Tensor = torch.load(output)[:, 0]
    return states


__all__ = ["peft_model", "plain_model", "random_lora", "save_lora", "tiny"]
