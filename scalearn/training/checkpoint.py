"""The state of an unfinished job: tensors as safetensors, everything else as JSON. It is complete or absent, never half."""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scalearn.files.weight_files import save_tensors
from scalearn.files.whole_files import write_whole

CHECKPOINT = "checkpoint"
_LATEST = "latest.json"
_TENSORS = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One saved state."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    job: Mapping[str, Any] | None = None
    """What identifies the job, as `scalearn.identity.identifying_fields` returns it. None: an older checkpoint, which lacks this."""


def save_checkpoint(
    directory: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], job: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, then remove the one before it.

    `latest.json` holds the state and names the tensors' folder. It is moved into place after everything else, so a reader sees the old
    checkpoint or the new one, even if both are of the same step.

    Args:
        directory: The job's directory.
        step: Steps taken so far; names the folder.
        tensors: The tensors, which are saved on CPU.
        state: JSON values.
        job: What identifies the job: JSON values.
    """
    root = directory / CHECKPOINT
    folder = root / f"step-{step:08d}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    save_tensors(tensors, folder / _TENSORS)
    write_whole(root / _LATEST, json.dumps({"folder": folder.name, "state": state, "job": job}).encode())
    for other in root.glob("step-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the latest checkpoint of a job. None: there is none that can be read, so the job starts anew."""
    root = directory / CHECKPOINT
    try:
        saved = json.loads((root / _LATEST).read_text(encoding="utf-8"))
        job = saved.get("job")
        tensors = load_file(root / Path(saved["folder"]).name / _TENSORS)
        return Checkpoint(tensors, saved["state"], job if isinstance(job, dict) else None)
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError, SafetensorError):
        return None


def remove_checkpoint(directory: Path) -> None:
    """Remove a finished job's checkpoints."""
    shutil.rmtree(directory / CHECKPOINT, ignore_errors=True)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's tensors by name, for example `optimizer.0.exp_avg`."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, entry in states.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `flatten_optimizer` back into an optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
