"""LoRAs in files of PEFT: written so that PEFT reads them, and read as the stacks of a transfer job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import POOLER, Sizes, matching
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.formats.peft_layout import CONFIG, LoraPart, lora_parts, lora_weights
from scalearn.layers.source_stack import BottleneckWeights, SourceStack, identity


@dataclass(frozen=True)
class LoraSources:
    """Where stacked LoRAs add, and how."""

    modules: tuple[str, ...]
    """The linear modules at which any of them adds, in the order of the stacks."""
    ranks: tuple[tuple[int, ...], ...]
    """The rank of each source at each of these modules, 0 where it does not add."""
    scales: tuple[tuple[float, ...], ...]
    """Likewise the factor s of `s B A x`."""


def read_loras(encoder: Encoder, directories: Mapping[str, Path]) -> tuple[tuple[SourceStack, ...], LoraSources]:
    """Read LoRAs as stacks without activation and bias: `s B A x` is `U (D x)` with D = A and U = s B.

    Where ranks differ, zeros fill up the smaller ones, and all of one that does not add at a module, which adds exactly nothing.

    Args:
        encoder: The backbone.
        directories: The directory of each LoRA by name, in the order of the stacks.

    Raises:
        UserError: One cannot be used. The sentence names it.
    """
    known = encoder.linear_modules
    parts = {name: lora_parts(name, directory, known) for name, directory in directories.items()}
    modules = tuple(module for module in known if any(module in each for each in parts.values()))
    tensors = {name: _tensors(name, directory, parts[name]) for name, directory in directories.items()}
    widest = max(part.rank for each in parts.values() for part in each.values())
    stacks = [
        SourceStack([_padded(tensors[name].get(module), known[module], widest) for name in directories], identity) for module in modules
    ]
    at = [[parts[name].get(module, LoraPart("", "", 0, 0.0)) for module in modules] for name in directories]
    ranks = tuple(tuple(part.rank for part in each) for each in at)
    return tuple(stack.to(encoder.device) for stack in stacks), LoraSources(
        modules, ranks, tuple(tuple(part.scale for part in each) for each in at)
    )


def _tensors(name: str, directory: Path, parts: Mapping[str, LoraPart]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and s B at each module, in float32."""
    with safe_open(lora_weights(name, directory), "pt") as file:
        found = {
            module: (file.get_tensor(each.down).float(), file.get_tensor(each.up).float() * each.scale) for module, each in parts.items()
        }
    if not all(bool(tensor.isfinite().all()) for pair in found.values() for tensor in pair):
        raise UserError(f"Source adapter '{name}': the weights in {directory} hold NaN or infinity: train it again.")
    return found


def _padded(pair: tuple[Tensor, Tensor] | None, size: tuple[int, int], rank: int) -> BottleneckWeights:
    inputs, outputs = size
    down, up = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
    if pair is not None:
        down[: len(pair[0])], up[:, : len(pair[0])] = pair
    return BottleneckWeights(down, torch.zeros(rank), up, torch.zeros(outputs))


def write_lora_config(
    directory: Path,
    modules: Sizes,
    known: Sizes,
    rank: int,
    alpha: float,
    rslora: bool,
    dropout: float,
    base: str,
    *,
    transposed: bool = False,
    head: str | None = None,
) -> None:
    """Write the configuration beside a LoRA's weights so that PEFT builds the same LoRA on transformers' plain model.

    Args:
        directory: Where the weights are.
        modules: The modules at which it adds.
        known: All linear modules of the backbone.
        rank: Rank of A and B.
        alpha: B A is scaled by alpha / rank.
        rslora: Whether it is scaled by alpha / sqrt(rank) instead.
        dropout: Dropout in training.
        base: The backbone: a hub id, a name or a directory.
        transposed: Whether these modules hold their weights as `[inputs, outputs]` (see `Encoder.stores_transposed`).
        head: Name of the head that lies in the same file. None: there is none, and PEFT builds the LoRA on the plain model.

    Raises:
        OSError: The file cannot be written.
    """
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": dropout,
        "target_modules": targets_of(modules, known),
        "use_rslora": rslora,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "task_type": None if head is None else "SEQ_CLS",
        "modules_to_save": None if head is None else [head],
        "inference_mode": True,
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def targets_of(modules: Sizes, known: Sizes) -> list[str]:
    """Return what names exactly these modules in PEFT: the ends of their names, or their whole names if the ends name others too."""
    ends = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
    return ends if set(matching((*known, f"{POOLER}.dense"), ends)) == set(modules) else list(modules)


def base_of(config: JobConfig) -> str:
    """Return what PEFT's files call the backbone of a job: a hub id, or the backbone's name."""
    kind, _, place = config.backbone_origin.partition(":")
    return place.rpartition("@")[0] if kind == "hub" else config.backbone
