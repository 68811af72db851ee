"""A trained job on disk in this package's own layout: `transfer/` with the branch's weights, the heads and a description.

`transfer_config.json` describes method, settings, sources, backbone and heads. The weights are in `omega.safetensors` for the ScaLearn
family (`omega`, `[layers or 1, sources, hidden or 1]`) and in `transfer.safetensors` for other methods. The head is in `head.safetensors`,
or, if there are several, each in its own `head_TASK.safetensors`. A LoRA's weights are in PEFT's own two files instead, in `adapter/`.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.registry import shape_of
from scalearn.config import DataConfig, JobConfig, OptimisationConfig, Setting
from scalearn.errors import UserError
from scalearn.files.json_files import read_json
from scalearn.files.tensor_files import read_header
from scalearn.files.weight_files import read_tensors, save_tensors
from scalearn.formats.lora_files import base_of, write_lora_config
from scalearn.formats.peft_layout import WEIGHTS as LORA_WEIGHTS
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head, HeadConfig, HeadKind, head_shapes
from scalearn.layers.omega import Omega
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.build import build_branch
from scalearn.methods.lora import LoraBranch
from scalearn.methods.registry import get_method
from scalearn.methods.scaling import ScalingBranch
from scalearn.methods.source_branch import SourceBranch
from scalearn.secrets import clause

CONFIG = "transfer_config.json"
SCHEMA = 1


@dataclass(frozen=True)
class HeadSpec:
    """What one head predicts, and its input."""

    task: str
    kind: HeadKind
    labels: int
    """Classes, labels or choices; 1 for regression."""
    label_names: tuple[str, ...] | None
    max_length: int = 128
    """Tokens per input in training."""
    layers: Literal[1, 2] = 2
    """Number of linear layers."""
    dropout: float | None = None
    """Rate of the head's dropout. None: the backbone's rate, as in files of older versions."""

    @property
    def name(self) -> str:
        """The task's short name."""
        return self.task.rpartition("/")[2]


@dataclass(frozen=True)
class TransferSpec:
    """The description of a trained job, without its weights."""

    method: str
    settings: Mapping[str, Setting]
    sources: tuple[str, ...]
    """Names of the sources, in the order of omega's rows."""
    backbone: str
    backbone_origin: str
    hidden_size: int
    heads: tuple[HeadSpec, ...]
    built_on: Mapping[str, Any] = field(default_factory=dict)
    """What identifies backbone and sources, as written by `save_transfer`. Empty: not read from a file, or from an older one."""


def save_transfer(folder: Path, spec: TransferSpec, branch: Branch, heads: Sequence[Head], encoder: Encoder) -> None:
    """Write a job into `folder`, which is created.

    Args:
        folder: Files of the same names in it are replaced.
        spec: Description of the job.
        branch: The weights to save, without those of the sources.
        heads: One head per entry of `spec.heads`.
        encoder: The backbone, which is only described.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(_tensors(branch), folder / _weights_file(branch))
    if isinstance(branch, LoraBranch):
        if spec.method != "lora":  # what was made of several LoRAs is an ordinary one now
            spec = replace(spec, method="lora", settings=branch.shape.settings, sources=())
        shape, base = branch.shape, base_of(job_config(spec))
        transposed, known = encoder.stores_transposed(shape.modules), encoder.linear_modules
        write_lora_config(folder, shape.modules, known, shape.rank, shape.alpha, shape.rslora, shape.dropout, base, transposed=transposed)
    for head, each in zip(heads, spec.heads, strict=True):
        save_tensors(head.state_dict(), folder / _head_file(spec, each))
    stacks = branch.given if isinstance(branch, SourceBranch) else ()
    config = {"schema": SCHEMA, **asdict(spec), "weights": _weights_file(branch), "built_on": _identity(encoder, stacks)}
    if isinstance(omega := _all_of(branch), Omega) and omega.widths is not None:
        config["omega_widths"] = omega.widths
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_spec(folder: Path) -> TransferSpec:
    """Read the description of a saved job.

    Raises:
        UserError: The folder holds no such job.
    """
    path = folder / CONFIG
    try:
        saved = read_json(path)
        heads = tuple(_head_spec(head) for head in saved["heads"])
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in saved["settings"].items()}
        sources, built_on = saved["sources"], dict(saved.get("built_on", {}))
        digests = built_on.get("sources") or sources
        if not all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in (sources, digests)):
            raise ValueError("sources must be a list of words")
        if len(digests) != len(sources):
            raise ValueError(f"there are {len(sources)} sources and weights of {len(digests)}")
        words = (saved["method"], saved["backbone"], saved["backbone_origin"])
        if not all(isinstance(word, str) for word in words):
            raise ValueError("method, backbone and backbone_origin must be words")
        method, backbone, origin = words
        return TransferSpec(method, settings, tuple(sources), backbone, origin, int(saved["hidden_size"]), heads, built_on)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} cannot be read ({clause(error)}): give the transfer/ folder of a finished job.") from error


def _head_spec(saved: Mapping[str, Any]) -> HeadSpec:
    """Return the description of a head in a file.

    Raises:
        ValueError: It is not valid. The message is a clause.
    """
    names = saved["label_names"]
    spec = HeadSpec(**{**saved, "label_names": None if names is None else tuple(str(name) for name in names)})
    if not isinstance(spec.task, str) or spec.kind not in get_args(HeadKind) or type(spec.layers) is not int or spec.layers not in (1, 2):
        raise ValueError("a head is of no known kind")
    if any(type(number) is not int or number < 1 for number in (spec.labels, spec.max_length)):
        raise ValueError("labels and max_length of a head must be whole numbers above 0")
    if spec.dropout is not None and not 0 <= spec.dropout < 1:
        raise ValueError("dropout of a head must be from 0 to below 1")
    if spec.label_names is not None and len(spec.label_names) != spec.labels:
        raise ValueError(f"a head has {spec.labels} labels and {len(spec.label_names)} names of them")
    return spec


def load_transfer(
    folder: Path, encoder: Encoder, sources: SourceAdapters | None, origin: str | None = None
) -> tuple[TransferSpec, Branch, list[Head]]:
    """Load a saved job onto a backbone.

    Args:
        folder: A folder of `save_transfer`.
        encoder: The backbone that the job was trained on.
        sources: The job's source adapters in its order. None: the method has none.
        origin: Identity of the backbone's weights. If it may mean the same weights from elsewhere, a warning says so. None: not compared.

    Returns:
        The job's description, its branch and its heads, in evaluation mode.

    Raises:
        UserError: Something is missing or damaged, or backbone or sources are not the job's.
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
    _require_backbone(folder, spec, encoder, origin)
    _require_sources(folder, spec, sources)
    for each in spec.heads:
        encoder.require_length(each.max_length)
    with _damage(folder / CONFIG):
        _require_plausible(folder, spec, encoder, sources)
        branch = build_branch(job_config(spec), encoder, sources)
    _fill(branch, folder / _weights_file(branch), encoder.device)
    heads = [_load_head(folder, spec, each, encoder) for each in spec.heads]
    return spec, branch.eval(), heads


def job_config(spec: TransferSpec, seed: int = 0) -> JobConfig:
    """Return the configuration that builds the job's branch from a seed. It does not say how the job was trained."""
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


def _identity(encoder: Encoder, stacks: Sequence[SourceStack]) -> dict[str, Any]:
    config = encoder.config
    shape = {"architecture": config.model_type, "layers": encoder.layers, "vocabulary": config.vocab_size}
    return {**shape, "sources": _digests(stacks)}


def _digests(stacks: Sequence[SourceStack]) -> list[str]:
    """Return digests of each source's weights, in the order of the stacks. They do not depend on how the weights were saved."""
    digests = [hashlib.sha256() for _ in range(stacks[0].sources if stacks else 0)]
    for stack in stacks:
        down, down_bias = (tensor.unflatten(0, (stack.sources, -1)) for tensor in (stack.down_weight, stack.down_bias))
        for index, digest in enumerate(digests):
            for tensor in (down[index], down_bias[index], stack.up_weight[:, index], stack.up_bias[index]):
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return [digest.hexdigest()[:16] for digest in digests]


def _require_backbone(folder: Path, spec: TransferSpec, encoder: Encoder, origin: str | None) -> None:
    identity = _identity(encoder, ())
    for name in ("architecture", "layers", "vocabulary"):
        then, now = spec.built_on.get(name), identity[name]
        if then is not None and then != now:
            raise UserError(
                f"{folder} was trained on '{spec.backbone}' with {name} {then}, but this backbone has {now}: "
                "load the one it was trained on."
            )
    if origin is None or origin == spec.backbone_origin:
        return
    if _surely_different(origin, spec.backbone_origin):
        raise UserError(
            f"{folder} was trained on the weights {spec.backbone_origin}, not on {origin}: load the backbone it was trained on."
        )
    warnings.warn(f"{folder} was trained on the weights {spec.backbone_origin}: make sure that {origin} are the same.", stacklevel=2)


def _surely_different(origin: str, other: str) -> bool:
    """Tell whether two origins surely name different weights. Equal names may not, and files may hold what the hub has."""
    (kind, _, name), (other_kind, _, other_name) = origin.partition(":"), other.partition(":")
    if kind != other_kind:
        return False
    return kind == "files" or name.replace("==", "@").partition("@")[0] != other_name.replace("==", "@").partition("@")[0]


def _require_sources(folder: Path, spec: TransferSpec, sources: SourceAdapters | None) -> None:
    saved = spec.built_on.get("sources")
    if not saved or sources is None:
        return
    other = [name for name, then, now in zip(spec.sources, saved, _digests(sources.stacks), strict=True) if then != now]
    if other:
        raise UserError(f"{folder} was trained on other weights of {', '.join(other)}: give the source adapters that it was trained on.")


def _all_of(branch: Branch) -> nn.Module:
    """Return the part of a branch to save: only omega, unless another package's branch has more parameters."""
    return branch.omega if isinstance(branch, ScalingBranch) and list(branch.state_dict()) == ["omega.omega"] else branch


def _require_plausible(folder: Path, spec: TransferSpec, encoder: Encoder, sources: SourceAdapters | None) -> None:
    """Refuse settings that describe more parameters than the weights file has, before anything of that size is built.

    Raises:
        ValueError: They describe more. The message is a clause.
        OSError: There are no weights.
    """
    count = get_method(spec.method).count
    shape = replace(shape_of(spec.backbone, encoder.config.to_dict()), layers=encoder.layers)
    if sources is not None and sources.lora is not None:  # of the formulas, only those of omegas
        shape = replace(shape, layers=len(sources.stacks), hidden_size=min(min(stack.size) for stack in sources.stacks))
    described = count(shape, len(spec.sources), spec.settings) if count is not None else None
    files = [file for file in (folder / "omega.safetensors", folder / "transfer.safetensors", folder / LORA_WEIGHTS) if file.is_file()]
    if not files:
        raise OSError("neither omega.safetensors nor transfer.safetensors is there")
    held = 0
    for file in files:
        with _damage(file):
            held = max(held, sum(math.prod(tensor.shape) for tensor in read_header(file).values()))
    if described is not None and described > held:
        raise ValueError(f"its settings describe {described} parameters, but the weights hold {held}")


def _load_head(folder: Path, spec: TransferSpec, each: HeadSpec, encoder: Encoder) -> Head:
    rate = encoder.head_dropout if each.dropout is None else each.dropout
    config, file = HeadConfig(each.kind, each.labels, rate, each.layers), folder / _head_file(spec, each)
    with _damage(file):
        weights = read_tensors(file, head_shapes(config, encoder.hidden_size), encoder.device)
        head = Head(config, encoder.hidden_size).to(encoder.device)
        head.load_state_dict(weights)
    return head.eval()


def _tensors(branch: Branch) -> dict[str, Tensor]:
    """Return a branch's weights by their names in its file."""
    return branch.tensors() if isinstance(branch, LoraBranch) else _all_of(branch).state_dict()


def _fill(branch: Branch, file: Path, device: torch.device) -> None:
    """Read a branch's weights from a file that holds exactly these."""
    with _damage(file), torch.no_grad():
        own = _tensors(branch)
        saved = read_tensors(file, {name: tuple(tensor.shape) for name, tensor in own.items()}, device)
        if not isinstance(branch, LoraBranch):
            _all_of(branch).load_state_dict(saved)
            return
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _weights_file(branch: Branch) -> str:
    if isinstance(branch, LoraBranch):
        return LORA_WEIGHTS
    return "omega.safetensors" if isinstance(_all_of(branch), Omega) else "transfer.safetensors"


def _head_file(spec: TransferSpec, head: HeadSpec) -> str:
    return "head.safetensors" if len(spec.heads) == 1 else f"head_{head.name}.safetensors"


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a file's content."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise UserError(
            f"{file} cannot be read, or does not fit this backbone and these sources ({clause(error)}): train the job again."
        ) from error
