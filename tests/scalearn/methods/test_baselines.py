"""The baselines against computations of a few lines, and what their jobs leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import AutoAdapterModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scalearn.backbone.encoder import Encoder, bottleneck_config, load_encoder
from scalearn.backbone.registry import get_backbone
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.random_streams import RowBlock
from scalearn.methods import counts
from scalearn.methods.backbone_copy import build_full
from scalearn.methods.build import build_branch
from scalearn.methods.hyperformer import HyperformerBranch
from scalearn.methods.propetl import JointPropetlBranch, PropetlBranch, binary_masks
from scalearn.methods.registry import METHODS, get_method
from scalearn.methods.soup import SoupBranch, soup_weights
from scalearn.model.transfer_files import load_transfer
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import HIDDEN, LAYERS, data, job, run, save_backbone
from tests.scalearn.helpers.tiny import (
    CONFIGS,
    add_random_adapter,
    architecture,
    encoder_of,
    library_model,
    save_adapters,
    shape,
    tiny_encoder,
)

TWO = ("domains/apple", "domains/coachella")
INPUTS = {"input_ids": torch.arange(3, 35).view(4, 8), "attention_mask": torch.ones(4, 8, dtype=torch.long)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def encoder(backbone: str) -> Encoder:
    return load_encoder(get_backbone(backbone))


def config_of(method: str, backbone: str) -> JobConfig:
    count = 2 if get_method(method).stage == "joint" else 1
    return job(method, tuple(map(data, TWO[:count])), backbone)


def own_methods() -> list[str]:
    """Methods that build on no sources."""
    return [key for key, method in METHODS.items() if not method.needs_sources]


@pytest.mark.parametrize("method", own_methods())
def test_parameter_count_of_built_model_equals_formula(method: str, backbone: str, encoder: Encoder) -> None:
    config = config_of(method, backbone)
    built = sum(parameter.numel() for parameter in build_branch(config, encoder, None).learned().values())
    shape = get_backbone(backbone).shape
    count = get_method(method).count
    assert shape is not None
    assert count is not None
    assert built == count(shape, len(config.data), config.settings)


def test_masks_keep_the_largest_absolute_scores_and_pass_gradients_to_them() -> None:
    scores = torch.randn(3, 5, 7, requires_grad=True)
    masks = binary_masks(scores, 0.3)
    for mask, matrix in zip(masks, scores.detach(), strict=True):
        order = matrix.abs().flatten().argsort()
        expected = torch.ones(35)
        expected[order[: int(0.7 * 35)]] = 0.0
        assert torch.equal(mask, expected.view(5, 7))
    weight = torch.randn(3, 5, 7)
    (masks * weight).sum().backward()
    assert torch.allclose(scores.grad, weight * scores.detach().sign())


def test_propetl_layer_adds_what_a_masked_adapter_computes() -> None:
    branch, states = PropetlBranch(bottleneck_config({"reduction_factor": 4}), LAYERS, HIDDEN, 0.5), torch.randn(2, 3, HIDDEN)
    down, up = branch.prototype.adapter_down[0], branch.prototype.adapter_up
    for site in range(LAYERS):
        kept_down = branch.down_scores[site].abs() > branch.down_scores[site].abs().median()
        kept_up = branch.up_scores[site].abs() > branch.up_scores[site].abs().median()
        inner = torch.relu(functional.linear(states, down.weight * kept_down.T, down.bias))
        assert torch.allclose(branch.added(site, states), functional.linear(inner, up.weight * kept_up.T, up.bias), atol=1e-6)


def test_joint_propetl_joins_masks_by_or_and_shares_the_last_tasks_with_the_first_layer() -> None:
    branch = JointPropetlBranch(bottleneck_config({"reduction_factor": 4}), 3, HIDDEN, 0.3, tasks=2)
    for task in range(2):
        branch.streams.blocks = (RowBlock(1, 1, 0, task),)
        down, _ = branch.masks()
        own = binary_masks(branch.down_scores, 0.3).bool()
        layers = (own[1], own[2], own[3])
        assert all(torch.equal(mask.bool(), own[task] | layer) for mask, layer in zip(down, layers, strict=True))


def test_propetl_scores_learn_at_their_own_rate(backbone: str, encoder: Encoder) -> None:
    single = build_branch(config_of("propetl", backbone), encoder, None).parameter_groups(config_of("propetl", backbone))
    joint = build_branch(config_of("propetl_m", backbone), encoder, None).parameter_groups(config_of("propetl_m", backbone))
    assert [group.learning_rate for group in single] == [1e-3, 5e-3]
    assert [group.learning_rate for group in joint] == pytest.approx([3e-4, 3e-3])


def test_hyperformer_adds_another_output_for_another_task(backbone: str, encoder: Encoder) -> None:
    branch = build_branch(config_of("hyperformer", backbone), encoder, None)
    assert isinstance(branch, HyperformerBranch)
    outputs = [encoder(INPUTS, [branch], [RowBlock(4, 8, 0, task)]) for task in (0, 1, 0)]
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-6)


def test_soup_weights_are_the_top_similarities_divided_by_their_sum() -> None:
    assert soup_weights({"a": 0.6, "b": -0.1, "c": 0.2, "d": 0.1}, 2) == pytest.approx({"a": 0.75, "c": 0.25})
    assert soup_weights({"a": 0.5, "b": -0.5}, 5) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("own", [0.9, 0.01])
def test_soup_averages_the_five_most_similar_sources_with_the_target_as_a_candidate_like_the_others(own: float, tmp_path: Path) -> None:
    model = library_model("bert")
    similarity = {"apple": own, "two": 0.5, "three": 0.4, "four": 0.3, "five": 0.2, "six": 0.1, "seven": -0.2}
    for name in similarity:
        add_random_adapter(model, name)
    places = save_adapters(model, tmp_path, tuple(similarity))
    encoder = encoder_of(model)
    sources = replace(load_source_adapters(encoder, places), similarity=similarity)
    branch = build_branch(job("adaptersoup", (data(TWO[0]),), "minilm", sources=tuple(similarity)), encoder, sources)
    chosen = sorted(similarity, key=lambda name: -similarity[name])[:5]
    assert ("apple" in chosen) == (own > 0.1)
    total = sum(similarity[name] for name in chosen)
    assert isinstance(branch, SoupBranch)
    for site, weights in enumerate(branch.weights()):
        for tensor, part in ((weights.down_weight, "adapter_down.0.weight"), (weights.up_bias, "adapter_up.bias")):
            key = f"bert.encoder.layer.{site}.output.adapters.{{}}.{part}"
            saved = {name: load_file(Path(places[name]) / "adapter.safetensors")[key.format(name)].double() for name in chosen}
            expected = sum(similarity[name] / total * saved[name] for name in chosen)
            torch.testing.assert_close(tensor.detach().double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["full_ft", "compacter_pp", "ia3"])
def test_method_with_its_own_model_leaves_the_warm_backbone_bitwise(method: str, backbone: str, tmp_path: Path) -> None:
    adapter = job("adapter", (data(TWO[0]),), backbone)
    run(adapter, tmp_path / "before")
    outcome = run(config_of(method, backbone), tmp_path / "between")
    run(adapter, tmp_path / "after")
    assert outcome.error is None
    before, after = (load_file(tmp_path / name / "adapter" / "adapter.safetensors") for name in ("before", "after"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("method", ["compacter_pp", "ia3"])
def test_library_method_saved_by_a_job_loads_in_the_library(method: str, backbone: str, tmp_path: Path) -> None:
    run(config_of(method, backbone), tmp_path / "job")
    model = AutoAdapterModel.from_pretrained(backbone)
    name = model.load_adapter(str(tmp_path / "job" / "adapter"), use_safetensors=True, set_active=True)
    saved = load_file(tmp_path / "job" / "adapter" / "adapter.safetensors")
    assert saved
    assert all(tensor.abs().sum() > 0 for tensor in saved.values())
    assert model(**INPUTS).logits.shape == (4, 3)
    assert name in model.heads


def test_full_fine_tuning_moves_every_parameter_of_the_encoder(backbone: str, tmp_path: Path) -> None:
    run(job("full_ft", (data(TWO[0]),), backbone, learning_rate=1e-3), tmp_path / "job")
    trained = load_file(tmp_path / "job" / "transfer" / "transfer.safetensors")
    start = dict(AutoAdapterModel.from_pretrained(backbone).named_parameters())
    assert {name.removeprefix("model.") for name in trained} == {name for name in start if "prompt" not in name and "pooler" not in name}
    assert not [name for name, tensor in trained.items() if torch.equal(tensor, start[name.removeprefix("model.")])]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_full_fine_tuning_learns_all_but_the_pooler_of_every_architecture(name: str) -> None:
    branch = build_full(job("full_ft", (data(TWO[0]),), "minilm"), tiny_encoder(name), None)
    frozen = {key for key, parameter in branch.model.base_model.named_parameters() if not parameter.requires_grad}
    assert all(key.startswith("pooler.") for key in frozen)
    assert sum(parameter.numel() for parameter in branch.learned().values()) == counts.everything(shape(tiny_encoder(name)), 0, {})


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("roberta", {"type_vocab_size": 1}),
        ("deberta-v2", {"relative_attention": False}),
        (
            "deberta-v2",  # as v3 is built
            {"position_biased_input": False, "share_att_key": True, "norm_rel_ebd": "layer_norm", "max_relative_positions": 9},
        ),
        (
            "deberta-v2",  # as v2-xlarge is, with more besides
            {"conv_kernel_size": 3, "conv_groups": 2, "embedding_size": 16, "type_vocab_size": 3, "position_buckets": -1},
        ),
    ],
)
def test_encoder_is_counted_by_formula_however_it_is_configured(name: str, extra: dict[str, Any]) -> None:
    encoder = Encoder(AutoAdapterModel.from_config(architecture(name, **extra)))
    own = [(key, parameter.numel()) for key, parameter in encoder.copy_of_model().base_model.named_parameters()]
    assert sum(size for key, size in own if not key.startswith("pooler.")) == counts.everything(shape(encoder), 0, {})


def test_joint_adapter_is_one_for_all_tasks_and_heads_are_their_own(backbone: str, tmp_path: Path) -> None:
    run(config_of("adapter_m", backbone), tmp_path / "job")
    folder = tmp_path / "job" / "transfer"
    heads = [load_file(folder / f"head_{name}.safetensors") for name in ("apple", "coachella")]
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result["parameters"]["source"] == LAYERS * (2 * HIDDEN * 8 + 8 + HIDDEN)
    assert result["parameters"]["head"] == 2 * (HIDDEN**2 + HIDDEN + 3 * (HIDDEN + 1))
    assert set(result["scores"]) == set(TWO)
    assert not torch.equal(heads[0]["out.weight"], heads[1]["out.weight"])


def test_adaptersoup_starts_from_the_weighted_average_of_the_sources_also_in_a_pack(backbone: str, tmp_path: Path) -> None:
    for task in ("apple", "coachella", "bbc"):
        run(job("adapter", (data(f"domains/{task}"),), backbone), tmp_path / task)
    for folder in ("similarity", "soup", "scalearn"):
        (tmp_path / folder).mkdir()
    line = {"domains/apple": 0.6, "domains/coachella": 0.2, "domains/bbc": 0.1}
    (tmp_path / "similarity" / "similarity.json").write_text(json.dumps({"similarity": {"domains/apple": line}}))
    names = ("apple", "coachella", "bbc")
    plain = job("adaptersoup", (data(TWO[0]),), backbone, {"top": 2}, learning_rate=1e-12)
    places = {name: tmp_path / name for name in (*names, "similarity")}
    beside = job("scalearn", (data(TWO[0]),), backbone, sources=names)
    pack = [PackMember(replace(plain, sources=names), tmp_path / "soup", places), PackMember(beside, tmp_path / "scalearn", places)]
    assert [outcome.error for outcome in train(pack, Runtime(device="cpu"), lambda *_: False)] == [None, None]
    assert [json.loads((member.directory / "result.json").read_text())["pack_size"] for member in pack] == [2, 2]
    soup, apple, coachella = (load_file(tmp_path / name / "adapter" / "adapter.safetensors") for name in ("soup", "apple", "coachella"))
    for name, tensor in apple.items():
        other = name.replace(".apple.", ".coachella.")
        assert torch.allclose(soup[name], 0.75 * tensor + 0.25 * coachella[other], atol=1e-7), name
    assert json.loads((tmp_path / "soup" / "result.json").read_text())["soup"] == pytest.approx({"apple": 0.75, "coachella": 0.25})


@pytest.mark.parametrize("method", ["full_ft", "full_ft_m", "propetl", "hyperformer_pp"])
def test_saved_job_loads_and_computes_the_same(method: str, backbone: str, encoder: Encoder, tmp_path: Path) -> None:
    config = config_of(method, backbone)
    run(config, tmp_path / "job")
    outputs = []
    for _ in range(2):
        _, branch, heads = load_transfer(tmp_path / "job" / "transfer", encoder, None)
        outputs.append(heads[0](encoder(INPUTS, [branch], [RowBlock(4, 8, 0)])))
    fresh = build_branch(config, encoder, None).eval()
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], heads[0](encoder(INPUTS, [fresh], [RowBlock(4, 8, 0)])), atol=1e-7)
