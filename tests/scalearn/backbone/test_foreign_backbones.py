"""Backbones that others wrote: what is no encoder, brings code, or does not fit itself is refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from orchestrator.cli import main
from scalearn.backbone.encoder import load_encoder
from scalearn.backbone.registry import get_backbone, require_readable
from scalearn.errors import UserError
from scalearn.model.model import load_backbone
from tests.scalearn.helpers.small import byte_tokenizer
from tests.scalearn.helpers.tiny import CONFIGS, architecture

SWEEP = """\
name: toy
benchmark: domains
backbone: ./backbone
targets: [apple]
sources: {tasks: [apple]}
data: {max_length: 24}
methods: {scalearn: {}}
"""


@pytest.fixture
def place(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good backbone in a directory to spoil."""
    shutil.copytree(backbone, tmp_path / "backbone")
    (tmp_path / "toy.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "backbone"


def edit(place: Path, file: str = "config.json", **entries: Any) -> None:
    path = place / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refusal(place: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_backbone(str(place))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper"])
def test_encoder_with_a_decoder_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"of architecture '{kind}', an encoder with a decoder: take"):
        require_readable("mine", CONFIG_MAPPING[kind]().to_dict())


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_encoder_that_is_configured_as_a_decoder_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"configured as a decoder \(is_decoder\)"):
        require_readable("mine", architecture(kind, is_decoder=True).to_dict())


@pytest.mark.parametrize("kind", [*CONFIGS, "albert", "electra", "deberta", "xmod", "bert-generation", "gpt2", "llama", "modernbert"])
def test_encoders_and_decoders_are_accepted(kind: str) -> None:
    require_readable("mine", CONFIG_MAPPING[kind]().to_dict())


def llama(place: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 300}
    CONFIG_MAPPING["llama"](**sizes, max_position_embeddings=64).save_pretrained(place)


def deep(place: Path) -> None:
    (place / "config.json").write_text('{"a":' * 20_000 + "1" + "}" * 20_000)


PLANNED: dict[str, tuple[Callable[[Path], object], str]] = {
    "adapters on a decoder": (llama, "needs an encoder of the adapters library, but the backbone is of architecture 'llama'"),
    "an encoder as a decoder": (lambda place: edit(place, is_decoder=True), "configured as a decoder"),
    "attention from elsewhere": (
        lambda place: edit(place, _attn_implementation_internal="owner/kernel"),
        "names an attention implementation",
    ),
    "attention by its other name": (lambda place: edit(place, _attn_implementation="owner/kernel"), "(_attn_implementation)"),
    "attention by its plain name": (lambda place: edit(place, attn_implementation="owner/kernel"), "(attn_implementation)"),
    "an architecture of its own": (
        lambda place: edit(place, model_type="mine", auto_map={"AutoConfig": "code.Config"}),
        "the backbone is of architecture 'mine'",
    ),
    "20,000 levels": (deep, "cannot read its config.json (it is nested too deeply)"),
    "a number of 5,000 digits": (
        lambda place: (place / "config.json").write_text('{"vocab_size": ' + "9" * 5_000 + "}"),
        "cannot read its",
    ),
    "a number of 4,000 digits": (lambda place: edit(place, vocab_size=10**4_000), "more than any encoder has"),
    "ten million layers": (lambda place: edit(place, num_hidden_layers=10**7), "num_hidden_layers 10000000, more than any encoder has"),
    "no number": (lambda place: edit(place, hidden_size=float("nan")), "config.json must give hidden_size"),
    "0 bytes of weights": (lambda place: (place / "model.safetensors").write_bytes(b""), "has 0 bytes of weights"),
    "positions for fewer tokens": (lambda place: edit(place, max_position_embeddings=16), "reads at most 16 tokens"),
}


@pytest.mark.parametrize("case", list(PLANNED))
def test_plan_refuses_a_directory_in_one_line(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, sentence = PLANNED[case]
    spoil(place)
    assert main(["plan", "toy.yaml"]) == 2
    told = capsys.readouterr().err
    assert sentence in told, told
    assert told.count("\n") == 1


def weights(place: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = place / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def pickle_only(place: Path, content: object) -> None:
    (place / "model.safetensors").unlink()
    torch.save(content, place / "pytorch_model.bin")


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, dict[str, object]]]:
        return exec, ("import torch; torch.harmed = True", {})


LOADED: dict[str, tuple[Callable[[Path], object], str]] = {
    "more layers than weights": (
        lambda place: edit(place, num_hidden_layers=4),
        "lack what its config.json describes (bert.enc",
    ),
    "fewer layers than weights": (lambda place: edit(place, num_hidden_layers=1), "have layers that its config.json does not describe"),
    "another hidden size": (lambda place: edit(place, hidden_size=64), "cannot be loaded"),
    "another vocabulary": (lambda place: edit(place, vocab_size=2**22), "cannot be loaded"),
    "tensors of other names": (
        lambda place: weights(place, lambda held: {f"other.{name}": each for name, each in held.items()}),
        "lack what its config.json describes",
    ),
    "heads that do not divide": (lambda place: edit(place, num_attention_heads=5), "not a multiple of the number of attention heads"),
    "unknown activation": (lambda place: edit(place, hidden_act="wobble"), "cannot be loaded"),
    "quantised by a package that is absent": (
        lambda place: edit(place, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "cannot be loaded",
    ),
    "a type that is none": (lambda place: edit(place, dtype="nonsense"), "cannot be loaded"),
    "a rate that is a word": (lambda place: edit(place, hidden_dropout_prob="x"), "cannot be loaded"),
    "truncated weights": (
        lambda place: (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:1000]),
        "cannot be loaded",
    ),
    "a pickle that would run code": (lambda place: pickle_only(place, {"x": Harmful()}), "cannot be loaded"),
    "a pickle of something else": (lambda place: pickle_only(place, [1, 2]), "cannot be loaded"),
    "no tokenizer": (lambda place: [path.unlink() for path in place.glob("tokenizer*")], "The tokenizer of"),
    "a tokenizer of 20,000 levels": (lambda place: (place / "tokenizer.json").write_text("[" * 20_000), "The tokenizer of"),
    "a tokenizer without padding": (
        lambda place: PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer).save_pretrained(place),
        "has no padding token",
    ),
}


@pytest.mark.parametrize("case", list(LOADED))
def test_backbone_that_does_not_fit_itself_is_refused_in_one_sentence(case: str, place: Path) -> None:
    spoil, sentence = LOADED[case]
    spoil(place)
    told = refusal(place)
    assert sentence in told, told
    assert not hasattr(torch, "harmed")


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(place: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(place)
    size = len(tokenizer)
    assert f"has tokens up to {size - 1}, but the model has {size - 1} embeddings" in refusal(place)


def test_pickled_backbone_is_read_without_running_code(place: Path) -> None:
    before = load_encoder(get_backbone(str(place))).state_dict()
    pickle_only(place, load_file(place / "model.safetensors"))
    after = load_encoder(get_backbone(str(place))).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if ".adapters." not in name)


def test_code_beside_a_model_is_never_run(place: Path) -> None:
    ran = place / "ran"
    (place / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit\n")
    edit(place, auto_map=dict.fromkeys(("AutoConfig", "AutoModel", "AutoAdapterModel"), "code.Thing"))
    edit(place, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Thing", "code.Thing"]})
    load_backbone(str(place))
    edit(place, "tokenizer_config.json", tokenizer_class="Thing")
    assert "The tokenizer of" in refusal(place)
    assert not ran.exists()


def test_sentence_encoder_that_names_attention_from_elsewhere_is_refused(place: Path) -> None:
    edit(place, _attn_implementation_internal="owner/kernel")
    with pytest.raises(UserError, match="names an attention implementation"):
        get_backbone(str(place))


def test_job_longer_than_the_backbone_reads_fails_with_one_sentence(place: Path, parents: Any, tmp_path: Path) -> None:
    from tests.scalearn.helpers.small import data, job, run

    outcome = run(job("adapter", (data("domains/apple", max_length=65),), str(place)), tmp_path / "job")
    assert outcome.error == "Inputs may have 65 tokens, but the backbone reads at most 64: lower max_length."
