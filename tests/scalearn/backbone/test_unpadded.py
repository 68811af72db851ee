"""Passes without padding compute what padded ones do, on every architecture that can; the others go on padded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AlbertConfig, ElectraConfig

from scalearn.backbone.encoder import Encoder
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.layers.branch import Branch
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.build import build_branch
from scalearn.methods.fusion import FusionBranch
from scalearn.methods.registry import METHODS
from scalearn.methods.scaling import ScalingBranch
from scalearn.methods.settings import resolve_settings
from tests.scalearn.helpers import tiny

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
FURTHER: dict[str, Callable[..., Any]] = {
    "electra": lambda **extra: ElectraConfig(**{**SIZES, "max_position_embeddings": 40, "embedding_size": 16, **extra}),
    "albert": lambda **extra: AlbertConfig(**{**SIZES, "max_position_embeddings": 40, "embedding_size": 16, **extra}),
}
UNPADDED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert")
LENGTHS = (1, 9, 4, 4, 30)


@pytest.fixture(params=UNPADDED)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    return fresh_encoder(request.param, monkeypatch)


def fresh_encoder(architecture: str, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    for name, config in FURTHER.items():
        monkeypatch.setitem(tiny.CONFIGS, name, config)  # type: ignore[arg-type]
    return tiny.encoder_of(tiny.library_model(architecture))


def batch(lengths: tuple[int, ...] = LENGTHS, *, types: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    longest = max(lengths) + 2
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    ids = torch.randint(5, 60, mask.shape, generator=generator) * mask + (1 - mask)
    return {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": (torch.arange(longest) > 2) * mask} if types else {})


def states_and_gradients(encoder: Encoder, branch: Branch, inputs: dict[str, Tensor], *, pads: bool, bf16: bool = False) -> list[Tensor]:
    encoder.pads = pads
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):  # not in the backward pass, as in training
            states = encoder(inputs, [branch], [RowBlock(*inputs["input_ids"].shape, seed=3)])
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    finally:
        encoder.release()
    gradients = [parameter.grad for parameter in branch.learned().values() if parameter.grad is not None]
    branch.zero_grad(set_to_none=True)
    assert gradients
    return [states.detach(), *gradients]


def branches_of(encoder: Encoder) -> dict[str, Branch]:
    stacks = tiny.random_stacks(encoder.sites, 3, 32, 4)
    branches: dict[str, Branch] = {"fusion": FusionBranch(stacks, 0.0), "scaling": ScalingBranch(stacks, OmegaConfig())}
    for method in ("adapter", "hyperformer", "propetl", "full_ft", "compacter_pp", "ia3"):
        config = JobConfig(
            benchmark="glue",
            stage=METHODS[method].stage,
            method=method,
            data=(DataConfig("glue/rte", ""),),
            backbone="tiny",
            backbone_origin="",
            optimisation=OptimisationConfig(learning_rate=1e-3),
            seed=0,
            settings=resolve_settings(METHODS[method], {"reduction_factor": 4} if "reduction_factor" in METHODS[method].settings else {}),
        )
        branches[method] = build_branch(config, encoder, None)
    return {name: branch.eval() for name, branch in branches.items()}


def test_every_method_computes_without_padding_what_it_computes_with_it(encoder: Encoder) -> None:
    for name, branch in branches_of(encoder).items():
        without, padded = (states_and_gradients(encoder, branch, batch(), pads=pads) for pads in (False, True))
        for index, (mine, theirs) in enumerate(zip(without, padded, strict=True)):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4, msg=lambda text: f"{name} {index}: {text}")  # noqa: B023


def test_every_method_trains_in_bf16(encoder: Encoder) -> None:
    for name, branch in branches_of(encoder).items():
        without, padded = (states_and_gradients(encoder, branch, batch(), pads=pads, bf16=True) for pads in (False, True))
        for index, (mine, theirs) in enumerate(zip(without, padded, strict=True)):
            distance = float((mine - theirs).norm() / theirs.norm().clamp(min=1e-3))
            assert distance < 0.1, f"{name} {index}"


@pytest.mark.parametrize("inputs", [batch((30,)), batch((3, 3, 3)), batch(types=True)], ids=["one row", "equal rows", "two segments"])
def test_states_are_the_same_for_any_rows(inputs: dict[str, Tensor], encoder: Encoder) -> None:
    if encoder.config.model_type == "distilbert":  # it has no segments
        inputs = {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}
    branch = branches_of(encoder)["adapter"]
    mine, theirs = (states_and_gradients(encoder, branch, inputs, pads=pads)[0] for pads in (False, True))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_relative_positions_go_on_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fresh_encoder("deberta-v2", monkeypatch)
    assert encoder.pads
    encoder.pads = False  # nothing can be done about it
    inputs = batch()
    states = encoder(inputs, [], [])
    assert states.shape == (len(LENGTHS), 32)
    assert encoder.streams.layout is None


def test_rows_of_several_jobs_are_padded(encoder: Encoder) -> None:
    branches, blocks = list(branches_of(encoder).values())[:2], [RowBlock(2, 32, 0), RowBlock(3, 32, 1)]
    together = encoder(batch(), branches, blocks)
    alone = encoder({name: tensor[:2] for name, tensor in batch().items()}, branches[:1], blocks[:1])
    torch.testing.assert_close(together[:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["adapter", "scaling", "fusion"])
def test_weights_held_in_bf16_give_the_same_bits_as_weights_cast_at_every_step(method: str, encoder: Encoder) -> None:
    branch, results = branches_of(encoder)[method].train(), []
    encoder.train()
    for _ in range(2):
        results.append(states_and_gradients(encoder.train(), branch, batch(), pads=False, bf16=True))
        encoder.hold_products_in(torch.bfloat16)
    held = [parameter.dtype for name, parameter in encoder.model.named_parameters() if "query.weight" in name or "q_lin.weight" in name]
    assert set(held) == {torch.bfloat16}
    for cast, as_held in zip(*results, strict=True):
        assert torch.equal(cast, as_held)


def test_copy_for_a_job_trains_apart_from_the_shared_backbone(encoder: Encoder) -> None:
    before = encoder(batch(), [], [])
    branch = branches_of(encoder)["full_ft"]
    states_and_gradients(encoder, branch, batch(), pads=False)
    with torch.no_grad():
        for parameter in branch.learned().values():
            parameter.add_(0.1)
    changed = encoder(batch(), [branch], [RowBlock(len(LENGTHS), 32, 0)])
    encoder.release()
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(encoder(batch(), [], []), before)
