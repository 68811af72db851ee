"""Method `lora`: how it begins, what it leaves, and that a pack of LoRAs goes the way of each alone."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import DebertaV2Config, DebertaV2Model, PreTrainedTokenizerFast

import scalearn
from scalearn.backbone.linear_modules import linear_modules
from scalearn.errors import UserError
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.lora import LoraBranch, LoraShape, target_sizes
from scalearn.methods.registry import get_method
from scalearn.methods.settings import resolve_settings
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import plain_model, random_lora, states_by_peft_alone
from tests.scalearn.helpers.packs import result, train_pack, weights
from tests.scalearn.helpers.small import HIDDEN, LAYERS, data, job, run

TASK = (data("domains/apple"),)


def test_lora_begins_as_pefts_and_adds_nothing() -> None:
    encoder = tiny.tiny_encoder()
    torch.manual_seed(0)
    branch = LoraBranch(LoraShape(target_sizes(encoder, ()), 4, 8.0))
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"])
    theirs = peft.get_peft_model(plain_model(encoder), config)
    bounds = [weight.detach().abs().max() for name, weight in theirs.named_parameters() if "lora_A" in name]
    for weight, bound in zip([each.detach() for each in branch.down], bounds, strict=True):
        assert weight.shape == (4, 32)
        assert weight.abs().max() == pytest.approx(float(bound), rel=0.1)
        assert weight.std() == pytest.approx(float(torch.tensor(1 / (3 * 32)).sqrt()), rel=0.25)
    assert not any(weight.any() for weight in branch.up)
    assert torch.allclose(encoder(batch(), [branch.eval()], [RowBlock(5, 32, 0)]), encoder(batch(), [], []), atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"rank": 3, "alpha": 7.5, "rslora": True}, {"target_modules": ["query", "key", "dense"], "dropout": 0.0}], ids=str
)
def test_peft_alone_gives_the_states_of_a_finished_job(settings: dict[str, object], backbone: str, tmp_path: Path) -> None:
    config = job("lora", TASK, backbone, settings, learning_rate=5e-2, epochs=3)
    assert run(config, tmp_path).error is None
    model = scalearn.load_model(tmp_path, scalearn.load_backbone(backbone))
    inputs = batch()
    mine = model.encoder(inputs, [model.branch], [RowBlock(5, 32, 0)]).detach()
    plain = model.encoder(inputs, [], []).detach()
    theirs = states_by_peft_alone(backbone, tmp_path / "adapter", inputs)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert (mine - plain).abs().max() > 1e-2
    files = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "head.safetensors", "transfer_config.json"]


def test_finished_job_predicts_as_it_was_scored(backbone: str, tmp_path: Path) -> None:
    assert run(job("lora", TASK, backbone, learning_rate=5e-2), tmp_path).error is None
    model = scalearn.load_model(tmp_path, scalearn.load_backbone(backbone))
    scores = model.evaluate(TASK[0])
    recorded = result(tmp_path)["scores"]["domains/apple"]["test"]
    assert scores == pytest.approx(recorded, rel=1e-5)


def test_files_say_what_peft_needs(backbone: str, tmp_path: Path) -> None:
    assert run(job("lora", TASK, backbone, {"rank": 4}), tmp_path).error is None
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    expected = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query", "value"], "bias": "none", "task_type": None}
    assert expected.items() <= config.items()
    assert config["base_model_name_or_path"] == backbone
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert names["base_model.model.encoder.layer.1.attention.self.value.lora_B.weight"].shape == (HIDDEN, 4)
    assert len(names) == 2 * 2 * LAYERS


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("targets", [(), ("dense", "query", "lin1", "q_lin", "query_proj")])
def test_count_is_that_of_the_model(architecture: str, targets: tuple[str, ...]) -> None:
    encoder = tiny.tiny_encoder(architecture)
    shape, known = tiny.shape(encoder), linear_modules(tiny.shape(encoder))
    targets = tuple(target for target in targets if any(name.endswith(f".{target}") for name in known or ()))
    branch = LoraBranch(LoraShape(target_sizes(encoder, targets), 5, 1.0))
    method = get_method("lora")
    assert method.count is not None
    counted = method.count(shape, 0, {**method.settings, "rank": 5, "target_modules": targets})
    assert counted == sum(parameter.numel() for parameter in branch.learned().values())


def test_modules_that_the_backbone_lacks_fail_the_job_in_one_sentence(backbone: str, tmp_path: Path) -> None:
    outcome = run(job("lora", TASK, backbone, {"target_modules": ["q_proj"]}), tmp_path)
    assert outcome.error is not None
    assert outcome.error.startswith("target_modules names 'q_proj', but the backbone's linear modules are query, key, value, dense")


@pytest.mark.parametrize("value", ["query", [], [""], [1], [["query"]]], ids=str)
def test_target_modules_that_are_no_words_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="Setting 'target_modules' of method 'lora' must be a list of words"):
        resolve_settings(get_method("lora"), {"target_modules": value})


@pytest.mark.parametrize("shared", [True, False], ids=["one pass", "in turn"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_pack_of_loras_and_adapters_goes_the_way_of_each_alone(shared: bool, checkpointing: bool, backbone: str, tmp_path: Path) -> None:
    kinds = [("lora", {}, 1), ("lora", {}, 2), ("adapter", {}, 0), ("lora", {"rank": 3, "target_modules": ["key", "dense"]}, 0)]
    configs = [job(method, TASK, backbone, settings, seed, learning_rate=1e-2, epochs=2, patience=None) for method, settings, seed in kinds]
    options = {"shared_passes": shared, "gradient_checkpointing": checkpointing}
    assert [each.error for each in train_pack(configs, tmp_path / "pack", {}, **options)] == [None] * len(configs)
    for number, config in enumerate(configs):
        (alone,) = train_pack([config], tmp_path / f"alone{number}", {}, **options)
        assert alone.error is None
        mine, theirs = weights(tmp_path / "pack" / str(number)), weights(tmp_path / f"alone{number}" / "0")
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            if shared:
                assert float((tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-6)) < 1e-5, name
            else:
                assert torch.equal(tensor, theirs[name]), name
    seeds = [weights(tmp_path / "pack" / number) for number in "01"]
    assert all(not torch.equal(tensor, seeds[1][name]) for name, tensor in seeds[0].items() if "lora" in name)


def test_loras_on_shared_relative_positions_take_turns_in_a_pack(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """DeBERTa-v3 computes one table of positions for all rows with the modules at which LoRAs add."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    positions = {"relative_attention": True, "share_att_key": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    place = str(tmp_path / "deberta")
    DebertaV2Model(DebertaV2Config(**sizes, **positions)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    configs = [job("lora", TASK, place, seed=seed, learning_rate=1e-2, patience=None) for seed in (0, 1)]
    assert [each.error for each in train_pack(configs, tmp_path / "pack", {}, shared_passes=True)] == [None, None]
    for number, config in enumerate(configs):
        assert [each.error for each in train_pack([config], tmp_path / f"alone{number}", {}, shared_passes=True)] == [None]
        mine, theirs = weights(tmp_path / "pack" / str(number)), weights(tmp_path / f"alone{number}" / "0")
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_backbone_says_nothing_of_inactive_slots(caplog: pytest.LogCaptureFixture) -> None:
    encoder = tiny.encoder_of(tiny.library_model("bert"))
    encoder(batch(), [random_lora(encoder)], [RowBlock(5, 32, 0)])
    assert not caplog.records
