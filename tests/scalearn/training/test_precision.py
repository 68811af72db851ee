"""Ways to compute the same thing cheaper: recomputed activations, another attention kernel, bf16."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, DebertaV2Model

from scalearn.backbone.accelerator import open_accelerator
from scalearn.backbone.device import resolve_precision
from scalearn.backbone.encoder import Encoder, load_encoder
from scalearn.backbone.registry import get_backbone
from scalearn.errors import UserError
from scalearn.layers.branch import Branch
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.slot import Slot
from scalearn.methods.backbone_copy import OwnModelBranch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import ScalingBranch
from scalearn.training import loop as training
from scalearn.training.checkpoint import load_checkpoint
from scalearn.training.pack import Stop
from tests.scalearn.helpers.packs import config_of, difference, history, result, stop_at, train_pack
from tests.scalearn.helpers.tiny import (
    CONFIGS,
    HIDDEN,
    LAYERS,
    encoder_of,
    library_model,
    random_stacks,
    states_of,
    tiny_encoder,
    token_batch,
)

STACKS = random_stacks(LAYERS, 3, HIDDEN, 8, scale=0.1)


def gradients(encoder: Encoder, branches: list[Branch]) -> list[Tensor]:
    """Output and gradients of one pass with dropout, two jobs of three rows."""
    inputs = token_batch(6, 8)
    encoder.train()
    states = encoder(inputs, branches, [RowBlock(3, 8, 11), RowBlock(3, 8, 12)])
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    (states * weights).sum().backward()
    encoder.eval()
    found = [states.detach()]
    for branch in branches:
        found += [parameter.grad for parameter in branch.learned().values() if parameter.grad is not None]
        branch.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_recomputed_backbone_gives_the_same_gradients_with_dropout_on(architecture: str) -> None:
    encoder = encoder_of(library_model(architecture))
    branches: list[Branch] = [ScalingBranch(STACKS, OmegaConfig()), FusionBranch(STACKS, attention_dropout=0.1)]
    kept = gradients(encoder, branches)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for slot in (module for module in encoder.modules() if isinstance(module, Slot)):
        slot.register_forward_hook(count)
    encoder.recompute_in_backward(True)
    recomputed = gradients(encoder, branches)
    assert calls == 2 * LAYERS
    for ours, theirs in zip(recomputed, kept, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6 * max(1.0, float(theirs.abs().max())), rtol=0)
    encoder.recompute_in_backward(False)
    gradients(encoder, branches)
    assert calls == 3 * LAYERS


@pytest.mark.parametrize("owns_backbone", [False, True])
def test_recomputation_for_another_pass_is_refused_instead_of_giving_its_gradients(owns_backbone: bool) -> None:
    encoder = encoder_of(library_model("bert")).train()
    encoder.recompute_in_backward(True)
    branch: Branch = ScalingBranch(STACKS, OmegaConfig())
    if owns_backbone:
        branch = OwnModelBranch(encoder.copy_of_model().requires_grad_(True))
    first, second = (states_of(encoder, branch, token_batch(), seed) for seed in (1, 2))
    with pytest.raises(UserError, match="call backward first"):
        first.sum().backward()
    second.sum().backward()
    assert all(parameter.grad is not None for name, parameter in branch.learned().items() if "pooler" not in name and ".heads" not in name)


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "deberta-v2"])
def test_sdpa_attention_equals_eager_attention_in_evaluation(architecture: str) -> None:
    eager, sdpa = (encoder_of(library_model(architecture, attention=kind)) for kind in ("eager", "sdpa"))
    inputs, branch = token_batch(), ScalingBranch(STACKS, OmegaConfig()).eval()
    torch.testing.assert_close(states_of(sdpa, branch, inputs), states_of(eager, branch, inputs), atol=1e-5, rtol=0)


def test_architecture_without_sdpa_attention_is_refused_in_one_sentence(tmp_path: Path) -> None:
    DebertaV2Model(CONFIGS["deberta-v2"]()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^Architecture deberta-v2 has no attention sdpa: set attention to eager\.$"):
        load_encoder(get_backbone(str(tmp_path)), attention="sdpa")


def test_bf16_is_close_to_fp32() -> None:
    encoder, inputs = tiny_encoder("roberta"), token_batch()
    for branch in (ScalingBranch(STACKS, OmegaConfig()).eval(), FusionBranch(STACKS, attention_dropout=0.1).eval()):
        exact = states_of(encoder, branch, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = states_of(encoder, branch, inputs)
        relative = (rounded.float() - exact).norm() / exact.norm()
        assert 0 < float(relative) < 0.02


def test_bf16_gradients_of_omega_are_close_to_fp32_alone_and_packed() -> None:
    encoder, inputs = tiny_encoder("roberta"), token_batch(6, 8)
    branches = [ScalingBranch(STACKS, OmegaConfig(dropout=0.0)) for _ in range(2)]

    def omega_gradients() -> Tensor:
        states = encoder(inputs, branches, [RowBlock(3, 8, 0), RowBlock(3, 8, 0)])
        (states.float() * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        found = torch.stack([branch.omega.omega.grad for branch in branches if branch.omega.omega.grad is not None])
        assert found.dtype == torch.float32
        for branch in branches:
            branch.zero_grad(set_to_none=True)
        return found

    exact = omega_gradients()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = omega_gradients()
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_precision_auto_is_what_the_device_multiplies_natively_and_fp16_needs_a_gpu() -> None:
    cpu = torch.device("cpu")
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_precision("auto", cpu) == ("bf16" if native else "fp32")
    assert resolve_precision("fp32", cpu) == "fp32"
    with pytest.raises(UserError, match="GPU"):
        resolve_precision("fp16", cpu)


def test_gpu_by_its_number_is_refused_since_accelerate_would_take_the_first() -> None:
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        open_accelerator("fp32", "cuda:1")


def test_step_with_sdpa_or_recomputed_activations_is_the_step_without_and_the_result_says_so(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path
) -> None:
    plain = tmp_path / "backbone"
    shutil.copytree(backbone, plain)
    config = AutoConfig.from_pretrained(plain)
    config.attention_probs_dropout_prob = 0.0  # the one dropout that sdpa draws from another stream
    config.save_pretrained(plain)
    configs = [config_of(method, str(plain), seed, max_steps=1) for seed, method in enumerate(("scalearn", "adapter"))]
    ways: dict[str, dict[str, Any]] = {"usual": {}, "sdpa": {"attention": "sdpa"}, "recomputed": {"gradient_checkpointing": True}}
    for name, runtime in ways.items():
        assert [outcome.error for outcome in train_pack(configs, tmp_path / name, parents, **runtime)] == [None, None]
    for index in (0, 1):
        (usual,) = history(tmp_path / f"usual/{index}")
        for name in ("sdpa", "recomputed"):
            (record,) = history(tmp_path / f"{name}/{index}")
            assert record["train_loss"] == pytest.approx(usual["train_loss"], rel=1e-5)
            assert record["validation"]["loss"] == pytest.approx(usual["validation"]["loss"], rel=1e-4)
    said = [(result(tmp_path / name / "0")["attention"], result(tmp_path / name / "0")["gradient_checkpointing"]) for name in ways]
    assert said == [("eager", False), ("sdpa", False), ("eager", True)]


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Packs that compute in fp16 on the CPU, which is refused otherwise for being slow. The scales that their next jobs start from."""
    start: list[float] = []
    original = training.open_accelerator

    def half(*_: Any) -> Any:
        accelerator = original("fp32", "cpu")
        accelerator.autocast = lambda: torch.autocast("cpu", torch.float16)  # type: ignore[method-assign]
        return accelerator

    monkeypatch.setattr(training, "open_accelerator", half)
    monkeypatch.setattr(training, "gradient_scaler", lambda _: torch.amp.GradScaler("cpu", init_scale=start.pop(0), growth_interval=4))
    return start


def final_scale(directory: Path) -> float:
    saved = load_checkpoint(directory)
    assert saved is not None
    return float(saved.state["scaler"]["scale"])


def test_fp16_training_follows_fp32_training(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    configs = [config_of(method, backbone, seed) for seed, method in enumerate(("scalearn", "adapterfusion", "adapter"))]
    train_pack(configs, tmp_path / "exact", parents)
    request.getfixturevalue("scales").extend([2.0**12] * 3)
    assert all(outcome.error is None for outcome in train_pack(configs, tmp_path / "half", parents))
    for index in range(len(configs)):
        exact, half = (history(tmp_path / f"{kind}/{index}") for kind in ("exact", "half"))
        assert [record["train_loss"] for record in half] == pytest.approx([record["train_loss"] for record in exact], rel=0.02)
        assert difference(tmp_path / f"exact/{index}", tmp_path / f"half/{index}") > 0
        assert final_scale(tmp_path / f"half/{index}") == 2.0**13, "six good steps double the scale once, after four"


def test_overflow_of_one_job_leaves_its_neighbours_alone(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, scales: list[float]
) -> None:
    configs = [config_of("scalearn", backbone, seed) for seed in (0, 1)]
    scales += [2.0**60, 2.0**10]
    train_pack(configs, tmp_path / "pack", parents)
    scales += [2.0**10]
    train_pack(configs[1:], tmp_path / "alone", parents)
    assert final_scale(tmp_path / "pack/0") == 2.0**54, "all six steps overflow"
    assert final_scale(tmp_path / "pack/1") == final_scale(tmp_path / "alone/0") == 2.0**11
    packed, alone = history(tmp_path / "pack/1"), history(tmp_path / "alone/0")
    assert [record["train_loss"] for record in packed] == pytest.approx([record["train_loss"] for record in alone], rel=2e-3)
    assert difference(tmp_path / "pack/1", tmp_path / "alone/0") < 0.1 * difference(tmp_path / "pack/0", tmp_path / "pack/1")


def test_every_job_of_a_resumed_fp16_pack_has_its_own_scale_back(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, scales: list[float]
) -> None:
    configs = [config_of("scalearn", backbone, seed) for seed in (0, 1)]
    scales += [2.0**60, 2.0**10]
    train_pack(configs, tmp_path / "whole", parents)
    scales += [2.0**60, 2.0**10]
    with pytest.raises(Stop):
        train_pack(configs, tmp_path / "parts", parents, stop_at(2))
    assert [final_scale(tmp_path / f"parts/{index}") for index in (0, 1)] == [2.0**58, 2.0**10]
    scales += [8.0, 8.0]
    train_pack(configs, tmp_path / "parts", parents)
    for index in (0, 1):
        assert final_scale(tmp_path / f"parts/{index}") == final_scale(tmp_path / f"whole/{index}")
        assert difference(tmp_path / f"parts/{index}", tmp_path / f"whole/{index}") == 0.0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_close_to_fp32_on_a_gpu(dtype: torch.dtype) -> None:
    encoder = encoder_of(library_model("roberta")).to("cuda")
    branch = ScalingBranch([stack.to("cuda") for stack in random_stacks(LAYERS, 3, HIDDEN, 8, scale=0.1)], OmegaConfig()).to("cuda").eval()
    inputs = {name: tensor.to("cuda") for name, tensor in token_batch().items()}
    exact = states_of(encoder, branch, inputs)
    with torch.autocast("cuda", dtype):
        rounded = states_of(encoder, branch, inputs)
    assert float((rounded.float() - exact).norm() / exact.norm()) < 0.02
