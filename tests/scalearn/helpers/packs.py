"""Small packs on a small backbone, what they leave, and how two of them compare."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from scalearn.config import JobConfig
from scalearn.data import tokenised
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.model.model import LoadedBackbone
from scalearn.training.job import JobRun
from scalearn.training.loop import train
from scalearn.training.pack import Outcome, PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import data, job

SOURCES = ("apple", "coachella")
TARGET = (data("domains/apple"),)


def config_of(method: str, backbone: str, seed: int = 0, **optimisation: Any) -> JobConfig:
    """Two epochs of three steps, evaluated every two, so that a stop falls into an epoch."""
    sources = () if method == "adapter" else SOURCES
    values = {"epochs": 2, "evaluate_every": 2, "learning_rate": 5e-3, "patience": None, **optimisation}
    return job(method, TARGET, backbone, seed=seed, sources=sources, **values)


def train_pack(
    configs: Sequence[JobConfig], root: Path, parents: Mapping[str, Path], report: Any = lambda *_: None, **runtime: Any
) -> list[Outcome]:
    members = []
    for index, config in enumerate(configs):
        directory = root / str(index)
        directory.mkdir(parents=True, exist_ok=True)
        members.append(PackMember(config, directory, parents if config.sources else {}))
    return train(members, Runtime(device="cpu", **runtime), report)


def weights(directory: Path) -> dict[str, Tensor]:
    files = sorted(path for path in directory.rglob("*.safetensors") if "checkpoint" not in path.parts)
    assert files
    return {f"{path.name}/{name}": tensor for path in files for name, tensor in load_file(path).items()}


def result(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return loaded


def history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def difference(left: Path, right: Path) -> float:
    """Largest difference between the weights that two jobs left."""
    ours, theirs = weights(left), weights(right)
    assert set(ours) == set(theirs)
    return max(float((tensor - theirs[name]).abs().max()) for name, tensor in ours.items())


def stop_at(step: int) -> Callable[[PackMember, Mapping[str, Any]], None]:
    def report(member: PackMember, record: Mapping[str, Any]) -> None:
        if record["step"] >= step:
            raise Stop

    return report


def begun(
    config: JobConfig, directory: Path, parents: Mapping[str, Path], backbone: LoadedBackbone, scaler: torch.amp.GradScaler | None = None
) -> JobRun:
    """A job as it stands before its first step, or as its checkpoint left it."""
    tasks = [tokenised(data, backbone.tokenizer, config.backbone_origin, root=None, cache=None) for data in config.data]
    sources = load_source_adapters(backbone.encoder, {name: parents[name] for name in config.sources}) if config.sources else None
    return JobRun(PackMember(config, directory, parents), backbone.encoder, tasks, sources, scaler)
