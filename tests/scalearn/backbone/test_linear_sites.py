"""Jobs add at linear modules as PEFT does, on every architecture, in every kind of pass, and nothing where they have no site."""

from typing import Any

import pytest
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import kind_of, linear_modules, matching, usual_targets
from scalearn.backbone.unpadded import RowAttention
from scalearn.errors import UserError
from scalearn.layers.branch import Branch
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.lora import target_sizes
from scalearn.methods.scaling import ScalingBranch
from tests.scalearn.backbone.test_unpadded import LENGTHS, UNPADDED, batch, branches_of, fresh_encoder, states_and_gradients
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import peft_model, plain_model, random_lora

DEBERTA = {"share_att_key": True, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}


@pytest.fixture(params=(*UNPADDED, "deberta-v2"))
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    if request.param == "deberta-v2":
        return tiny.encoder_of(tiny.library_model(request.param, **DEBERTA))
    return fresh_encoder(request.param, monkeypatch)


def all_targets(encoder: Encoder) -> list[str]:
    """Every linear module in the layers."""
    names = matching(encoder.linear_modules, [name for name in encoder.linear_modules if "layer" in name])
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def test_linear_modules_are_those_of_the_plain_model_and_of_the_table(encoder: Encoder) -> None:
    plain = {name: (m.in_features, m.out_features) for name, m in plain_model(encoder).named_modules() if isinstance(m, nn.Linear)}
    assert encoder.linear_modules == {name: size for name, size in plain.items() if not name.startswith("pooler")}
    planned = linear_modules(tiny.shape(encoder))
    if encoder.config.model_type != "albert":
        assert planned == encoder.linear_modules
    else:
        assert planned is None


def test_usual_targets_are_queries_and_values(encoder: Encoder) -> None:
    names = list(target_sizes(encoder, ()))
    layers = 1 if encoder.config.model_type == "albert" else tiny.LAYERS
    assert len(names) == 2 * layers
    assert len({kind_of(name) for name in names}) == 2
    assert all(name.rpartition(".")[2][0] in "qv" for name in names)


def test_usual_targets_are_those_of_peft() -> None:
    others = {"bloom", "gpt_neox", "gptj", "gpt_bigcode", "opt", "falcon", "codegen", "stablelm", "deberta", "gpt_neo", "mpt"}
    for kind, theirs in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items():
        if kind in others | {"bert", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"}:
            assert usual_targets([f"layer.0.{name}" for name in theirs]) == tuple(theirs), kind


def test_target_that_names_no_module_is_one_sentence(encoder: Encoder) -> None:
    with pytest.raises(
        UserError, match=r"target_modules names 'qurey', but the backbone's linear modules are .*: name some of these"
    ) as error:
        target_sizes(encoder, ("qurey",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pads", [False, True], ids=["in a row", "padded"])
@pytest.mark.parametrize("everywhere", [False, True], ids=["usual", "everywhere"])
def test_states_are_those_of_peft(pads: bool, everywhere: bool, encoder: Encoder) -> None:
    targets = all_targets(encoder) if everywhere else list(usual_targets(encoder.linear_modules))
    branch = random_lora(encoder, tuple(targets)).eval()
    inputs = batch()
    reference = peft_model(encoder, branch, targets)
    reference.base_model.model.pooler = None
    with torch.no_grad():
        theirs = reference(**inputs)[0][:, 0]
        nothing = encoder(inputs, [], [])
    mine = states_and_gradients(encoder, branch, inputs, pads=pads)[0]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert not torch.allclose(mine, nothing, atol=1e-2)


def test_gradients_are_the_same_padded_in_a_row_and_computed_again(encoder: Encoder) -> None:
    branch = random_lora(encoder, tuple(all_targets(encoder))).eval()
    in_a_row, padded = (states_and_gradients(encoder, branch, batch(), pads=pads) for pads in (False, True))
    if not encoder.model.supports_gradient_checkpointing:
        return
    encoder.recompute_in_backward(True)
    encoder.train()  # only then does the library recompute
    for module in encoder.modules():
        if module.__class__.__name__ == "RowDropout":
            module.rate = 0.0  # type: ignore[assignment]
    again = states_and_gradients(encoder, branch, batch(), pads=False)
    for mine, theirs, recomputed in zip(in_a_row, padded, again, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(mine, recomputed, atol=2e-5, rtol=1e-4)


def mixed(encoder: Encoder) -> list[Branch]:
    """Jobs at different kinds of sites, with neighbours that can run in one product."""
    stacks = tiny.random_stacks(encoder.sites, 3, 32, 4)
    query = matching(encoder.linear_modules, usual_targets(encoder.linear_modules))[0].rpartition(".")[2]
    return [
        random_lora(encoder, seed=0, dropout=0.2),
        random_lora(encoder, seed=1, dropout=0.2),
        branches_of(encoder)["adapter"],
        ScalingBranch(stacks, OmegaConfig(dropout=0.3)),
        random_lora(encoder, (query,), rank=2),
    ]


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_jobs_at_different_sites_share_a_pass_with_the_results_of_each_alone(recomputed: bool, encoder: Encoder) -> None:
    if encoder.shares_positions:
        pytest.skip("such jobs take turns there")
    encoder.pads = True
    encoder.train()
    if recomputed and not encoder.model.supports_gradient_checkpointing:
        pytest.skip("it has no gradient checkpointing")
    encoder.recompute_in_backward(recomputed)
    branches = [branch.train() for branch in mixed(encoder)]
    lengths = [(3, 9), (8, 2), (5, 5), (9, 4), (6, 7)]
    inputs = [batch(each) for each in lengths]
    width = max(each["input_ids"].shape[1] for each in inputs)
    blocks = [
        RowBlock(2, each["input_ids"].shape[1], seed=seed, batch_lengths=own)
        for seed, (each, own) in enumerate(zip(inputs, lengths, strict=True))
    ]
    together = {
        name: torch.cat([nn.functional.pad(each[name], (0, width - each[name].shape[1]), value=name == "input_ids") for each in inputs])
        for name in inputs[0]
    }
    states = gradients(encoder, branches, together, blocks)
    for number, (branch, own, block) in enumerate(zip(branches, inputs, blocks, strict=True)):
        alone = gradients(encoder, [branch], own, [block])
        torch.testing.assert_close(states[0][2 * number : 2 * number + 2], alone[0], atol=1e-5, rtol=0)
        for mine, theirs in zip(states[1][number], alone[1][0], strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def gradients(
    encoder: Encoder, branches: list[Branch], inputs: dict[str, Tensor], blocks: list[RowBlock]
) -> tuple[Tensor, list[list[Tensor]]]:
    states = encoder(inputs, branches, blocks)
    (states * torch.linspace(-1, 1, states.shape[1])).sum().backward()
    encoder.release()
    encoder.train()
    found = [[p.grad.clone() for p in branch.learned().values() if p.grad is not None] for branch in branches]
    for branch in branches:
        branch.zero_grad(set_to_none=True)
    return states.detach(), found


def test_job_without_a_site_pays_nothing_there(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter job after a LoRA job keeps its joined product, and a LoRA job leaves the library's slots inactive."""
    if encoder.needs_padding:
        pytest.skip("rows are padded there")
    apart: list[int] = []
    plain = RowAttention._apart
    monkeypatch.setattr(RowAttention, "_apart", lambda self, *given: (apart.append(1), plain(self, *given))[1])
    lora, adapter = random_lora(encoder).eval(), branches_of(encoder)["adapter"]
    block = [RowBlock(len(LENGTHS), batch()["input_ids"].shape[1], 0)]
    encoder(batch(), [lora], block)
    assert apart
    assert not encoder.model.active_adapters
    apart.clear()
    encoder(batch(), [adapter], block)  # the LoRA's hooks are still there
    assert not apart
    encoder.release()
    assert not any(module._forward_hooks for module in encoder.modules() if isinstance(module, nn.Linear))


def test_last_query_gets_first_tokens_alone(encoder: Encoder) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(Branch):
        def added(self, site: int, hidden_states: Tensor) -> Tensor:
            seen.append(tuple(hidden_states.shape))
            return torch.zeros(*hidden_states.shape[:-1], 32)

    if encoder.config.model_type in ("albert", "deberta-v2"):
        pytest.skip("all layers are alike there, or all queries are needed")
    query = usual_targets(encoder.linear_modules)[0]
    branch: Any = Watched(tuple(target_sizes(encoder, (query,))))
    encoder.pads = False
    encoder(batch(), [branch], [RowBlock(len(LENGTHS), 32, 0)])
    assert seen[-1] == (1, len(LENGTHS), 32)
    encoder.pads = True
    encoder(batch(), [branch], [RowBlock(len(LENGTHS), 32, 0)])
    assert seen[-1] == (len(LENGTHS), 1, 32)
