"""A warm worker runs pack after pack: whatever one does, and however it ends, the next ones compute what they would compute first."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalearn.backbone.encoder import SLOT
from scalearn.config import JobConfig
from scalearn.formats import library_files
from scalearn.training import loop as training
from scalearn.training.loop import train
from scalearn.training.pack import PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.packs import config_of, difference, result
from tests.scalearn.helpers.small import data, job, run

USUAL = Runtime(device="cpu", threads=1)
TWO = (data("domains/apple"), data("domains/coachella"))


class Broken(RuntimeError):
    """Stands for a bug."""


def raising(error: Exception) -> Callable[..., None]:
    def report(member: PackMember, record: Mapping[str, Any]) -> None:
        raise error

    return report


@dataclass(frozen=True)
class Pack:
    """What a worker is given."""

    configs: tuple[JobConfig, ...]
    runtime: Runtime = USUAL
    report: Callable[..., None] = lambda *_: None
    ends: tuple[type[Exception], ...] = ()
    """How it ends, if not well."""


def packs_of(backbone: str) -> dict[str, Pack]:
    short = {"epochs": 1, "evaluate_every": None}
    diverging = {**short, "learning_rate": 1e30, "max_gradient_norm": None, "evaluate_every": 1}
    scalearn, adapter, fusion = (config_of(method, backbone, **short) for method in ("scalearn", "adapter", "adapterfusion"))
    return {
        "two": Pack((scalearn, config_of("adapter", backbone, 1, **short))),
        "diverging in a pack": Pack((fusion, config_of("scalearn", backbone, 2, **diverging))),
        "diverging alone": Pack((config_of("adapter", backbone, 3, **diverging),)),
        "raising": Pack((adapter, scalearn), report=raising(Broken()), ends=(Broken,)),
        "stopped": Pack((fusion,), report=raising(Stop()), ends=(Stop,)),
        "bf16": Pack((replace(adapter, optimisation=replace(adapter.optimisation, precision="bf16")),)),
        "recomputed": Pack((adapter, fusion), runtime=replace(USUAL, gradient_checkpointing=True)),
        "two threads": Pack((adapter,), runtime=replace(USUAL, threads=2)),
        "whole backbone": Pack((job("full_ft", TWO[:1], backbone, epochs=1),)),
        "library's": Pack((job("compacter_pp", TWO[:1], backbone, epochs=1),)),
        "whole backbone raising": Pack((job("full_ft", TWO[:1], backbone, epochs=1),), report=raising(Broken()), ends=(Broken,)),
        "joint": Pack((job("hyperformer_pp", TWO, backbone, epochs=1, max_steps=3, evaluate_every=2, patience=None),)),
        "sources missing": Pack((replace(scalearn, sources=("apple", "nowhere")), adapter)),
        "last": Pack((scalearn, adapter, fusion)),
    }


def work(packs: Mapping[str, Pack], order: list[str], root: Path, parents: Mapping[str, Path]) -> None:
    """Runs packs in one process, as a warm worker does; each must leave the process as it found it."""
    for name in order:
        pack, members = packs[name], []
        for index, config in enumerate(pack.configs):
            directory = root / name / str(index)
            directory.mkdir(parents=True)
            places = {**parents, "nowhere": root / "nowhere"}
            members.append(PackMember(config, directory, places if config.sources else {}))
        before = process_state()
        if pack.ends:
            with pytest.raises(pack.ends):
                train(members, pack.runtime, pack.report)
        else:
            train(members, pack.runtime, pack.report)
        assert process_state() == before, name
        for encoder, _ in training._warm.values():
            assert set(encoder.model.adapters_config.adapters) == {SLOT}, name
            assert not encoder.model.heads, name
            assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters()), name
            assert not any(module.training for module in encoder.modules()), name


def process_state() -> list[Any]:
    """All that a job could leave behind for the next one, but for the number of threads, which every pack sets."""
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
    ]


@pytest.mark.slow
def test_packs_leave_the_same_bits_in_any_order(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    packs = packs_of(backbone)
    orders = [list(packs), list(packs)[::-1]]
    random.Random(1).shuffle(orders[1])
    for number, order in enumerate(orders):
        training._warm.clear()
        work(packs, order, tmp_path / str(number), parents)
    compared = 0
    for left in sorted((tmp_path / "0").glob("*/*")):
        right = tmp_path / "1" / left.relative_to(tmp_path / "0")
        done = (left / "result.json").exists()
        assert done == (right / "result.json").exists(), left
        if done:
            compared += 1
            assert difference(left, right) == 0.0, left
            assert result(left)["scores"] == result(right)["scores"], left
    assert compared == 14


def test_adapter_that_cannot_be_saved_leaves_nothing_on_the_backbone(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's head is half made when an error comes."""
    original = library_files.add_library_head

    def broken(model: Any, name: str, *arguments: Any) -> None:
        original(model, name, *arguments)
        raise Broken

    monkeypatch.setattr(library_files, "add_library_head", broken)
    with pytest.raises(Broken):
        run(job("adapter", TWO[:1], backbone), tmp_path)
    for encoder, _ in training._warm.values():
        assert set(encoder.model.adapters_config.adapters) == {SLOT}
        assert not encoder.model.heads
