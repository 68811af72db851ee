"""Prediction heads that the adapters library saved beside an adapter, read as heads of this package."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scalearn.errors import UserError
from scalearn.heads import Head, HeadConfig, HeadKind

WEIGHTS = "model_head.safetensors"
PICKLED = "pytorch_model_head.bin"
_PARTS = ("weight", "bias")
_INPUTS = "inputs.json"
"""Our own file beside the library's: what the library does not keep."""


def read_library_head(
    directory: Path, hidden: int, *, dropout: float | None = None, allow_pickle: bool = False
) -> tuple[Head, tuple[str, ...] | None]:
    """Reads the head that lies beside an adapter.

    Args:
        directory: In AdapterHub layout, with `head_config.json` and `model_head.safetensors`.
        hidden: Hidden size d of the backbone.
        dropout: Rate of the head's dropout, which the library does not save. None: the usual one.
        allow_pickle: Whether weights in `pytorch_model_head.bin` are accepted. They are read without running code from them.

    Returns:
        The head, in evaluation mode, and the names of its labels if it has any.

    Raises:
        UserError: There is no head, it is damaged, or it is not the library's classification or multiple choice head.
    """
    try:
        saved = json.loads((directory / "head_config.json").read_text(encoding="utf-8"))
        config, name = saved["config"], saved["name"]
        pickled = allow_pickle and not (directory / WEIGHTS).is_file()
        tensors = torch.load(directory / PICKLED, map_location="cpu", weights_only=True) if pickled else load_file(directory / WEIGHTS)
        kind = _kind(config)
        labels = int(config["num_choices" if kind == "multiple_choice" else "num_labels"])
        head = Head(HeadConfig(kind, labels, dropout, config["layers"]), hidden)
        places = {"dense": 1, "out": 4} if config["layers"] == 2 else {"out": 1}
        head.load_state_dict({f"{own}.{part}": tensors[f"heads.{name}.{at}.{part}"] for own, at in places.items() for part in _PARTS})
        numbers = {int(number): str(label) for label, number in (config.get("label2id") or {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The prediction head in {directory} cannot be read ({reason}): save the adapter again, with its head.") from error
    named = numbers and any(label != f"LABEL_{number}" for number, label in numbers.items())
    return head.eval(), tuple(numbers[number] for number in sorted(numbers)) if named else None


def save_head_inputs(directory: Path, task: str, max_length: int) -> None:
    """Writes beside an adapter what its head reads: the task's key, and tokens per input."""
    (directory / _INPUTS).write_text(json.dumps({"task": task, "max_length": max_length}) + "\n", encoding="utf-8")


def read_head_inputs(directory: Path) -> tuple[str, int] | None:
    """Reads the task's key and the tokens per input; None where the adapter came from elsewhere.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / _INPUTS
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return str(saved["task"]), int(saved["max_length"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it to read inputs of up to 128 tokens.") from error


def _kind(config: dict[str, Any]) -> HeadKind:
    if config["layers"] not in (1, 2) or config["activation_function"] != "tanh" or config["use_pooler"]:
        raise ValueError("it has other layers than dense, tanh and linear on the first token")
    if config["head_type"] == "multiple_choice":
        return "multiple_choice"
    if config["head_type"] == "multilabel_classification":
        return "multi_label"
    if config["head_type"] != "classification":
        raise ValueError(f"it is of type {config['head_type']}")
    return "regression" if config["num_labels"] == 1 else "classification"
