"""A trained job on disk in this package's own layout: `transfer/` with the branch's weights, the heads and what they are.

`transfer_config.json` says method, settings, sources, backbone and heads. The weights lie in `omega.safetensors` for the
ScaLearn family (`omega`, `[layers or 1, sources, hidden or 1]`) and in `transfer.safetensors` for other methods, those of the
head in `head.safetensors`, or in a `head_TASK.safetensors` per task where there are several.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scalearn.config import DataConfig, JobConfig, OptimisationConfig, Setting
from scalearn.encoder import Encoder
from scalearn.errors import UserError
from scalearn.heads import Head, HeadConfig, HeadKind
from scalearn.methods.branch import Branch
from scalearn.methods.build import build_branch
from scalearn.methods.registry import get_method
from scalearn.methods.scaling import ScalingBranch
from scalearn.source_adapters import SourceAdapters

CONFIG = "transfer_config.json"
SCHEMA = 1


@dataclass(frozen=True)
class HeadSpec:
    """What one head predicts, and from what."""

    task: str
    kind: HeadKind
    labels: int
    """Classes, labels or choices; 1 for regression."""
    label_names: tuple[str, ...] | None
    max_length: int = 128
    """Tokens per input in training."""
    layers: Literal[1, 2] = 2
    """Linear layers."""

    @property
    def name(self) -> str:
        """The task's short name."""
        return self.task.rpartition("/")[2]


@dataclass(frozen=True)
class TransferSpec:
    """What a trained job is, without its weights."""

    method: str
    settings: Mapping[str, Setting]
    sources: tuple[str, ...]
    """Names in the order of omega's rows."""
    backbone: str
    backbone_origin: str
    hidden_size: int
    heads: tuple[HeadSpec, ...]


def save_transfer(folder: Path, spec: TransferSpec, branch: Branch, heads: Sequence[Head]) -> None:
    """Writes a job into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"omega": branch.omega.omega} if isinstance(branch, ScalingBranch) else branch.state_dict()
    _save(weights, folder / _weights_file(branch))
    for head, each in zip(heads, spec.heads, strict=True):
        _save(head.state_dict(), folder / _head_file(spec, each))
    config = {"schema": SCHEMA, **asdict(spec), "weights": _weights_file(branch)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_spec(folder: Path) -> TransferSpec:
    """Reads what a saved job is.

    Raises:
        UserError: The folder holds no such job.
    """
    path = folder / CONFIG
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        heads = tuple(HeadSpec(**{**head, "label_names": _names(head["label_names"])}) for head in saved["heads"])
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in saved["settings"].items()}
        return TransferSpec(
            saved["method"],
            settings,
            tuple(saved["sources"]),
            saved["backbone"],
            saved["backbone_origin"],
            int(saved["hidden_size"]),
            heads,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the transfer/ folder of a finished job.") from error


def load_transfer(folder: Path, encoder: Encoder, sources: SourceAdapters | None) -> tuple[TransferSpec, Branch, list[Head]]:
    """Loads a saved job onto a backbone.

    Args:
        folder: As `save_transfer` wrote it.
        encoder: The backbone that the job was trained on.
        sources: The job's source adapters in its order; None for methods without.

    Returns:
        What the job is, its branch and its heads, in evaluation mode.

    Raises:
        UserError: Something is missing or damaged, or backbone or sources are others than the job's.
    """
    spec = read_spec(folder)
    given = sources.names if sources is not None else ()
    if given != spec.sources:
        raise UserError(
            f"{folder} was trained on the sources {', '.join(spec.sources) or 'none'}, but was given {', '.join(given) or 'none'}: "
            "give the same ones in the same order."
        )
    if encoder.hidden_size != spec.hidden_size:
        raise UserError(
            f"{folder} was trained on '{spec.backbone}' with hidden size {spec.hidden_size}, but this backbone has {encoder.hidden_size}: "
            "load the one it was trained on."
        )
    branch = build_branch(job_config(spec), encoder, sources)
    weights = _load(folder / _weights_file(branch), encoder.device)
    _fill(branch.omega if isinstance(branch, ScalingBranch) else branch, weights, folder)
    heads = [_load_head(folder, spec, each, encoder) for each in spec.heads]
    return spec, branch.eval(), heads


def job_config(spec: TransferSpec, seed: int = 0) -> JobConfig:
    """The configuration that builds the job's branch from a seed; how it was trained is not part of it."""
    data = tuple(DataConfig(head.task, "", max_length=head.max_length) for head in spec.heads)
    stage, optimisation = get_method(spec.method).stage, OptimisationConfig(learning_rate=0.0)
    return JobConfig(
        data[0].task.partition("/")[0] if data else "",
        stage,
        spec.method,
        data,
        spec.backbone,
        spec.backbone_origin,
        optimisation,
        seed,
        sources=spec.sources,
        settings=spec.settings,
    )


def _load_head(folder: Path, spec: TransferSpec, each: HeadSpec, encoder: Encoder) -> Head:
    head = Head(HeadConfig(each.kind, each.labels, layers=each.layers), encoder.hidden_size).to(encoder.device)
    _fill(head, _load(folder / _head_file(spec, each), encoder.device), folder)
    return head.eval()


def _fill(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The weights in {folder} do not fit this backbone and these sources ({reason}): load the ones it has.") from error


def _weights_file(branch: Branch) -> str:
    return "omega.safetensors" if isinstance(branch, ScalingBranch) else "transfer.safetensors"


def _head_file(spec: TransferSpec, head: HeadSpec) -> str:
    return "head.safetensors" if len(spec.heads) == 1 else f"head_{head.name}.safetensors"


def _names(names: Sequence[Any] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(str(name) for name in names)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def _load(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): the job has to be trained again.") from error
