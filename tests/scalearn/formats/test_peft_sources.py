"""LoRAs of others: what PEFT itself saved is read as it computes, and what cannot be added up is refused by name in one sentence."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import linear_modules
from scalearn.errors import UserError
from scalearn.files.tensor_files import LARGEST
from scalearn.formats import peft_layout
from scalearn.formats.adapterhub_layout import external_adapter, require_unchanged
from scalearn.formats.peft_layout import CONFIG, PICKLED, WEIGHTS, lora_parts
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.model import load_backbone
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.formats.test_external_adapters import LOAD, REVISION
from tests.scalearn.helpers import tiny
from tests.scalearn.helpers.lora import save_lora


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny.encoder_of(tiny.library_model("bert"))


@pytest.fixture
def lora(encoder: Encoder, tmp_path: Path) -> Path:
    save_lora(encoder, tmp_path / "lora")
    return tmp_path / "lora"


def edit(directory: Path, **fields: Any) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_tensors(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


def refusal(encoder: Encoder, directory: Path) -> str:
    with pytest.raises(UserError) as error:
        load_source_adapters(encoder, {"mine": directory}, method="lora")
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.startswith("Source adapter 'mine'")
    return sentence


CONFIGS: dict[str, dict[str, Any]] = {
    "patterns": {"r": 4, "rank_pattern": {"value": 6}, "alpha_pattern": {"encoder.layer.1.attention.self.query": 3}},
    "rslora": {"r": 9, "lora_alpha": 4, "use_rslora": True},
    "one layer": {"r": 2, "layers_to_transform": [1]},
    "gaussian": {"r": 2, "init_lora_weights": "gaussian"},
    "everywhere": {"r": 2, "target_modules": ["query", "key", "value", "dense"]},
    "with a head": {"r": 2, "task_type": "SEQ_CLS"},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_saved_computes_what_peft_computes(kind: str, encoder: Encoder, tmp_path: Path) -> None:
    """Trained beside a head, as usual, so that names begin with `bert.`."""
    plain = AutoModelForSequenceClassification.from_config(encoder.config, attn_implementation="eager")
    own = encoder.model.base_model.state_dict()
    plain.bert.load_state_dict({name: own.get(name, value) for name, value in plain.bert.state_dict().items()})
    model = peft.get_peft_model(plain, peft.LoraConfig(**{"target_modules": ["query", "value"], "lora_alpha": 6, **CONFIGS[kind]}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.eval().save_pretrained(str(tmp_path))
    sources = load_source_adapters(encoder, {"mine": tmp_path})
    fixed = ScalingBranch(sources.stacks, OmegaConfig(per_dimension=False, per_layer=False, fixed=(1.0,)), modules=sources.modules).eval()
    mine = encoder(batch(), [fixed], [RowBlock(5, 32, 0)])
    with torch.no_grad():
        theirs = model.base_model.model.bert(**batch())[0][:, 0]
        without = plain.bert.embeddings is not None and encoder(batch(), [], [])
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert (mine - without).abs().max() > 1e-2
    assert lora_parts("mine", tmp_path, linear_modules(tiny.shape(encoder))).keys() == set(sources.modules or ())


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "other kind": ({"peft_type": "IA3"}, "cannot be added up with others (peft_type: IA3)"),
    "bias": ({"bias": "lora_only"}, "(bias: lora_only)"),
    "lora_bias": ({"lora_bias": True}, "(lora_bias: True)"),
    "dora": ({"use_dora": True}, "(use_dora: True)"),
    "variant of tomorrow": ({"use_other": True}, "(use_other: True)"),
    "modules_to_save": ({"modules_to_save": ["classifier", "embeddings"]}, "(modules_to_save: embeddings)"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "(init_lora_weights: pissa_niter_4, which changes the backbone)"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "(init_lora_weights: lora_ga, which changes the backbone)"),
    "arrow": ({"arrow_config": {"top_k": 3}}, "(arrow_config: {'top_k': 3})"),
    "expression": ({"rank_pattern": {"(a+)+$": 2}}, "(rank_pattern with the expression '(a+)+$'; only names of modules are read)"),
    "rank": ({"r": 0}, "is no LoRA configuration (r must be a whole number above 0, not 0)"),
    "rank of true": ({"r": True}, "(r must be a whole number above 0, not True)"),
    "alpha": ({"lora_alpha": "much"}, "(lora_alpha must be a number, not much)"),
    "other rank": ({"r": 4}, "lora_A.weight' has shape [3, 32], but [4, 32] is needed"),
    "patterned rank": ({"rank_pattern": {"value": 5}}, "value.lora_A.weight' has shape [3, 32], but [5, 32] is needed"),
    "odd pattern": ({"rank_pattern": [1]}, "is no LoRA configuration"),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_configuration_that_cannot_be_added_up_is_refused_by_name(kind: str, encoder: Encoder, lora: Path) -> None:
    fields, clause = FIELDS[kind]
    edit(lora, **fields)
    assert clause in refusal(encoder, lora)
    with pytest.raises(UserError):
        external_adapter("mine", str(lora))


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


FIRST = "base_model.model.encoder.layer.0.attention.self.query"
TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "magnitude": (lambda t: t.update({f"{FIRST}.lora_magnitude_vector": torch.ones(32)}), "would not be used by a LoRA of linear modules"),
    "embedding": (lambda t: t.update({"base_model.model.embeddings.word_embeddings.lora_embedding_A": torch.ones(3, 60)}), "would not be"),
    "whole module": (lambda t: t.update({"base_model.model.embeddings.LayerNorm.weight": torch.ones(32)}), "would not be used"),
    "only A": (lambda t: t.pop(f"{FIRST}.lora_B.weight"), "there is only one of A and B"),
    "unknown module": (renamed("self.query", "self.q_proj"), "self.q_proj', where this backbone has no linear module"),
    "unknown layer": (renamed("layer.1.", "layer.7."), "it adds at 'encoder.layer.7."),
    "size": (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(3, 16)}), "has shape [3, 16], but [3, 32] is needed"),
    "type": (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(3, 32, dtype=torch.int32)}), "is of type I32, which is none of"),
    "nothing": (lambda t: t.clear(), "they hold no LoRA of a linear module"),
    "infinity": (lambda t: t[f"{FIRST}.lora_A.weight"].fill_(float("inf")), "hold NaN or infinity"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_not_those_of_a_lora_are_refused_by_name(kind: str, encoder: Encoder, lora: Path) -> None:
    change, clause = TENSORS[kind]
    edit_tensors(lora, change)
    assert clause in refusal(encoder, lora)


def test_shapes_are_judged_before_tensors_are_read(encoder: Encoder, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_tensors(lora, lambda t: t.update({f"{FIRST}.lora_B.weight": torch.ones(32, 4)}))
    monkeypatch.setattr("scalearn.formats.lora_files.safe_open", lambda *_: pytest.fail("tensors were read"))
    assert "has shape [32, 4], but [32, 3] is needed" in refusal(encoder, lora)


def test_file_larger_than_any_lora_is_refused_unread(encoder: Encoder, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_layout, "LARGEST", 1000)
    monkeypatch.setattr(peft_layout, "read_header", lambda *_: pytest.fail("the file was read"))
    assert "adapter_model.safetensors has more than 1000 bytes" in refusal(encoder, lora)
    assert LARGEST > 2**30


def test_pickled_weights_are_refused_even_where_pickles_are_allowed(encoder: Encoder, lora: Path) -> None:
    torch.save(load_file(lora / WEIGHTS), lora / PICKLED)
    (lora / WEIGHTS).unlink()
    assert "pickled weights (adapter_model.bin), which can run code when read; save it with safe_serialization=True" in refusal(
        encoder, lora
    )
    with pytest.raises(UserError, match="pickled weights"):
        load_source_adapters(encoder, {"mine": lora}, allow_pickle=True)


def test_damaged_file_is_one_sentence(encoder: Encoder, lora: Path) -> None:
    (lora / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes()[:-7])
    assert "cannot be used" in refusal(encoder, lora)


def test_each_layout_in_the_place_of_the_other_is_one_sentence(encoder: Encoder, lora: Path, tmp_path: Path) -> None:
    model = tiny.library_model("bert")
    tiny.add_random_adapter(model, "hub")
    hub = tiny.save_adapters(model, tmp_path / "hubs", ("hub",))["hub"]
    adapters = "is not in PEFT's layout, but the sources are LoRAs: write sources: {method: adapter} to stack adapters of AdapterHub."
    loras = "is in PEFT's layout, but the sources are adapters of AdapterHub: write sources: {method: lora} to stack LoRAs."
    with pytest.raises(UserError) as error:
        load_source_adapters(encoder, {"first": lora, "second": hub})
    assert str(error.value) == f"Source adapter 'second': {hub} {adapters}"
    with pytest.raises(UserError) as error:
        load_source_adapters(encoder, {"first": hub, "second": lora})
    assert str(error.value) == f"Source adapter 'second': {lora} {loras}"
    with pytest.raises(UserError, match=r"write sources: \{method: lora\}"):
        load_source_adapters(encoder, {"first": lora}, method="adapter")


def test_base_model_that_is_not_the_backbone_warns(encoder: Encoder, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder.config, "_name_or_path", "owner/model")
    edit(lora, base_model_name_or_path="owner/other")
    with pytest.warns(
        UserWarning, match="Source adapter 'mine' was trained on owner/other: make sure that owner/model has the same weights"
    ):
        load_source_adapters(encoder, {"mine": lora})
    edit(lora, base_model_name_or_path="owner/model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_source_adapters(encoder, {"mine": lora})


@pytest.mark.parametrize(
    ("place", "base", "warned"),
    [
        ("/models/roberta-base", "FacebookAI/roberta-large", True),
        ("/models/roberta-base", "FacebookAI/roberta-base", False),
        ("/models/roberta-base", "minilm", False),
        ("", "FacebookAI/roberta-base", True),
    ],
)
def test_backbone_from_a_directory_is_the_hub_model_that_it_is_called_like(
    place: str, base: str, warned: bool, encoder: Encoder, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.config, "_name_or_path", place)
    edit(lora, base_model_name_or_path=base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_source_adapters(encoder, {"mine": lora})
    told = [str(warning.message) for warning in caught if "was trained on" in str(warning.message)]
    sentence = f"Source adapter 'mine' was trained on {base}: make sure that {place or 'the backbone'} has the same weights."
    assert told == [sentence] * warned


def test_content_is_the_identity_and_a_change_is_noticed(lora: Path, tmp_path: Path) -> None:
    adapter = external_adapter("mine", str(lora))
    (tmp_path / "copy").mkdir()
    for file in lora.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    assert external_adapter("mine", str(tmp_path / "copy")).origin == adapter.origin
    require_unchanged(adapter, lora, allow_pickle=False)
    edit_tensors(lora, lambda t: t[f"{FIRST}.lora_A.weight"].add_(1))
    with pytest.raises(UserError, match="has changed since this job was planned"):
        require_unchanged(adapter, lora, allow_pickle=False)


def test_absent_directory_is_one_sentence(encoder: Encoder, tmp_path: Path) -> None:
    assert "is neither a directory nor a" in refusal(encoder, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no adapter_config.json" in refusal(encoder, tmp_path / "empty")


@pytest.mark.slow
def test_lora_of_the_hub_is_downloaded_at_its_revision(
    backbone: str, tmp_path: Path, hub: Any, hub_environment: Callable[..., dict[str, str]]
) -> None:
    save_lora(load_backbone(backbone).encoder, tmp_path / "lora")
    for name in (CONFIG, WEIGHTS):
        hub.put("owner/lora", REVISION, name, (tmp_path / "lora" / name).read_bytes())
    command = [sys.executable, "-c", LOAD, backbone, f"owner/lora@{REVISION}", str(tmp_path / "lora")]
    done = subprocess.run(command, env=hub_environment(hub.endpoint), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    pinned, local = done.stdout.splitlines()
    assert pinned == local
    assert float(local) > 1.0
