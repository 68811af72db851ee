"""Ways to compute the same thing cheaper: recomputed activations, another attention kernel, bf16."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scalearn.device import open_accelerator, resolve_precision
from scalearn.encoder import Encoder
from scalearn.errors import UserError
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.branch import Branch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.scaling import ScalingBranch
from tests.scalearn.tiny import CONFIGS, HIDDEN, LAYERS, encoder_of, library_model, random_stacks, states_of, tiny_encoder, token_batch

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
def test_recomputed_backbone_gives_the_same_gradients_with_dropout_on(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(library_model(architecture))
    branches: list[Branch] = [ScalingBranch(STACKS, OmegaConfig()), FusionBranch(STACKS, attention_dropout=0.1)]
    kept = gradients(encoder, branches)
    calls = 0
    original = type(encoder.pack).added

    def counted(self: Any, site: int, hidden_states: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return original(self, site, hidden_states)

    for slot in (module for module in encoder.modules() if type(module).__name__ == "Slot"):
        monkeypatch.setattr(slot, "added", counted.__get__(encoder.pack))
    encoder.recompute_in_backward(True)
    recomputed = gradients(encoder, branches)
    assert calls == 2 * LAYERS
    for ours, theirs in zip(recomputed, kept, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6 * max(1.0, float(theirs.abs().max())), rtol=0)
    encoder.recompute_in_backward(False)
    gradients(encoder, branches)
    assert calls == 3 * LAYERS


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "deberta-v2"])
def test_sdpa_attention_equals_eager_attention_in_evaluation(architecture: str) -> None:
    eager, sdpa = (encoder_of(library_model(architecture, attention=kind)) for kind in ("eager", "sdpa"))
    inputs, branch = token_batch(), ScalingBranch(STACKS, OmegaConfig()).eval()
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(states_of(sdpa, branch, inputs)[seen], states_of(eager, branch, inputs)[seen], atol=1e-5, rtol=0)


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
