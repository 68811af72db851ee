"""Backbones without the adapters library: each architecture from LoRA sources to a target that PEFT alone runs, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM

import scalearn
from orchestrator.cli import main
from scalearn.backbone.encoder import Encoder
from scalearn.backbone.linear_modules import linear_modules
from scalearn.backbone.registry import get_backbone
from scalearn.errors import UserError
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.lora import target_sizes
from scalearn.methods.parameter_counts import all_counts
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import LoadedBackbone, TransferModel, load_backbone, load_model
from tests.scalearn.helpers.foreign import KINDS, save_tiny, tiny_model
from tests.scalearn.helpers.lora import random_lora
from tests.scalearn.helpers.packs import difference, result, train_pack

READ: dict[str, str] = {"mpnet": "mean", "modernbert": "first"}
LENGTHS = (9, 1, 14, 6)


@dataclass(frozen=True)
class Chain:
    """What two LoRA jobs and a transfer job on them left on a backbone of one kind."""

    kind: str
    place: str
    root: Path
    backbone: LoadedBackbone
    target: TransferModel


def lora_job(place: str, task: str = "domains/apple", method: str = "lora", **options: Any) -> Any:
    limits: dict[str, Any] = {"train_rows": 24, "evaluation_rows": 12, "max_length": 24, "epochs": 1, "batch_size": 8, "precision": "fp32"}
    settings = {"settings": {"rank": 2}} if method == "lora" else {"source_method": "lora"}
    return scalearn.job(task, method, backbone=place, **{"learning_rate": 0.1, **settings, **limits, **options})


@pytest.fixture(scope="module", params=list(KINDS))
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp(request.param)
    place = save_tiny(request.param, root / "backbone")
    backbone, sources = load_backbone(place), {name: root / name for name in ("apple", "coachella")}
    for name, directory in sources.items():
        scalearn.fit(lora_job(place, f"domains/{name}"), directory, backbone=backbone)
    config = lora_job(place, method="scalearn", sources=tuple(sources))
    target = scalearn.fit(config, root / "target", sources=sources, backbone=backbone)
    return Chain(request.param, place, root, backbone, target)


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 259, (length,), generator=generator) for length in LENGTHS]


def padded(side: str, length: int = 16) -> dict[str, Tensor]:
    def pad(row: Tensor, value: int) -> Tensor:
        room = (0, length - len(row)) if side == "right" else (length - len(row), 0)
        return functional.pad(row, room, value=value)

    ids = torch.stack([pad(row, 2) for row in rows()])
    return {"input_ids": ids, "attention_mask": torch.stack([pad(torch.ones_like(row), 0) for row in rows()])}


def states(model: TransferModel, inputs: dict[str, Tensor]) -> Tensor:
    return model.encoder(inputs, [model.branch], [RowBlock(*inputs["input_ids"].shape, 0)]).detach()


def test_peft_alone_runs_and_merges_the_exported_target(chain: Chain) -> None:
    """Row by row without padding, so the target's states depend neither on the side of padding nor on the other rows."""
    out = chain.root / "out"
    export_adapter(fold(chain.target), out)
    expected = {side: states(chain.target, padded(side)) for side in ("left", "right")}
    assert not torch.allclose(expected["right"], chain.backbone.encoder(padded("right"), [], []), atol=1e-2)
    alone = PeftModel.from_pretrained(AutoModel.from_pretrained(chain.place), str(out)).eval()
    for model in (alone, alone.merge_and_unload()):
        with torch.no_grad():
            plain = [model(input_ids=row.unsqueeze(0)).last_hidden_state[0] for row in rows()]
        read = {"first": lambda each: each[0], "last": lambda each: each[-1], "mean": lambda each: each.mean(0)}
        theirs = torch.stack([read[READ.get(chain.kind, "last")](each) for each in plain])
        for mine in expected.values():
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_exported_target_is_reloaded_with_its_head(chain: Chain, tmp_path: Path) -> None:
    export_adapter(fold(chain.target), tmp_path / "out")
    again = load_model(tmp_path / "out", chain.backbone)
    with torch.no_grad():
        torch.testing.assert_close(again(padded("left")), chain.target(padded("right")), atol=1e-5, rtol=1e-5)
    texts = ["good", "a much longer text, so that the first is padded"]
    assert again.predict(texts)[0].scores == pytest.approx(chain.target.predict(texts[:1])[0].scores, abs=1e-5)


def test_files_say_how_wide_omega_is_at_each_module(chain: Chain) -> None:
    """Where queries and values are of unlike sizes, their vectors lie one behind the other, which a report takes apart."""
    about = json.loads((chain.root / "target/transfer/transfer_config.json").read_text())
    outputs = [size[1] for size in target_sizes(chain.backbone.encoder, ()).values()]
    assert about.get("omega_widths") == (outputs if len(set(outputs)) > 1 else None)


def test_code_of_the_model_card_gives_the_logits(chain: Chain, tmp_path: Path) -> None:
    export_adapter(fold(chain.target), tmp_path / "out")
    alone, head = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), flags=re.DOTALL)
    alone = re.sub(r"directory/of/(?!this)[^\"]*", chain.place, alone)
    names: dict[str, Any] = {"inputs": padded("right")}
    with torch.no_grad():
        for code in (alone, head):
            exec(code.replace("directory/of/this/file", str(tmp_path / "out")), names)
        expected = chain.target(padded("left"))
    torch.testing.assert_close(names["logits"], expected, atol=1e-5, rtol=1e-5)


def test_plans_know_modules_counts_and_positions(chain: Chain) -> None:
    shape, encoder = get_backbone(chain.place).shape, chain.backbone.encoder
    assert shape is not None
    assert shape.positions == encoder.positions == 64
    assert result(chain.root / "target")["padded"]
    known = linear_modules(shape)
    if chain.kind == "opt":
        assert known is None, "an architecture that nothing here knows by name"
        return
    assert known == encoder.linear_modules
    counts = all_counts(shape, sources=2, labels=3, lora_rank=2)
    assert counts["scalearn"] == result(chain.root / "target")["parameters"]
    assert counts["lora"] == result(chain.root / "apple")["parameters"]
    assert not counts.keys() & {"adapter", "full_ft", "adapterfusion", "hyperformer", "ia3"}


@pytest.mark.parametrize("kind", ["mpnet", "gpt2", "qwen3"])
def test_jobs_in_one_pass_train_as_alone(kind: str, tmp_path: Path) -> None:
    place = save_tiny(kind, tmp_path / "backbone")
    configs = [lora_job(place, seed=seed, train_rows=16 + 8 * seed) for seed in (0, 1)]
    assert not any(outcome.error for outcome in train_pack(configs, tmp_path / "packed", {}, shared_passes=True))
    for number, config in enumerate(configs):
        train_pack([config], tmp_path / f"alone{number}", {})
        assert difference(tmp_path / f"packed/{number}", tmp_path / f"alone{number}/0") < 2e-3
        losses = [
            result(each)["scores"]["domains/apple"]["test"]["loss"]
            for each in (tmp_path / f"packed/{number}", tmp_path / f"alone{number}/0")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "modernbert"])
def test_gradients_are_the_same_computed_again(kind: str) -> None:
    encoder = Encoder(tiny_model(kind))
    branch, found = random_lora(encoder, dropout=0.3).train(), []
    for again in (False, True):
        encoder.train()
        encoder.recompute_in_backward(again)
        encoder(padded("right"), [branch], [RowBlock(len(LENGTHS), 16, 7)]).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in branch.learned().values() if parameter.grad is not None])
        branch.zero_grad()
        encoder.release()
    assert len(found[0]) == len(branch.learned())
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mpnet", "modernbert", "gpt2", "gemma2"])
def test_weights_are_held_in_the_type_of_products(kind: str, tmp_path: Path) -> None:
    place = save_tiny(kind, tmp_path / "backbone")
    assert train_pack([lora_job(place, precision="bf16")], tmp_path / "jobs", {})[0].error is None
    told = result(tmp_path / "jobs/0")
    assert told["precision"] == "bf16"
    assert 0 < told["scores"]["domains/apple"]["test"]["loss"] < 20


def test_lora_of_a_language_model_is_a_source(tmp_path: Path) -> None:
    place = save_tiny("llama", tmp_path / "backbone")
    tuned: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(place), LoraConfig(r=2, task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.eval().save_pretrained(str(tmp_path / "lora"))
    backbone, head = load_backbone(place), scalearn.HeadConfig("classification", 2)
    sources = load_source_adapters(backbone.encoder, {"chat": tmp_path / "lora"})
    model = scalearn.attach(backbone, "scalearn_fixed", head, sources=sources, settings={"omega": [1.0]}).eval()
    with torch.no_grad():
        theirs = torch.stack([tuned.base_model.model.model(input_ids=row.unsqueeze(0)).last_hidden_state[0, -1] for row in rows()])
    torch.testing.assert_close(states(model, padded("right")), theirs, atol=1e-5, rtol=0)


def test_decoder_that_looks_ahead_is_read_at_its_first_token() -> None:
    assert Encoder(tiny_model("gemma3_text", use_bidirectional_attention=True)).reading == "first"
    assert Encoder(tiny_model("gemma3_text")).reading == "last"


@pytest.mark.parametrize(
    ("kind", "entries", "problem"),
    [
        ("opt", {"word_embed_proj_dim": 16}, "its last states have 16 entries, not 32 as those before"),
        ("fnet", {}, "it cannot be given token ids and their mask alone"),
    ],
)
def test_model_that_cannot_be_read_says_why(kind: str, entries: dict[str, int], problem: str) -> None:
    with pytest.raises(UserError, match=f"A backbone of architecture '{kind}' cannot be read, since {problem}") as told:
        Encoder(tiny_model(kind, **entries))
    assert "\n" not in str(told.value)


def test_model_without_linear_modules_says_what_it_has() -> None:
    with pytest.raises(
        UserError, match="llama has no linear modules to add at, only Embedding, LlamaRMSNorm, LlamaRotaryEmbedding"
    ) as told:
        Encoder(tiny_model("llama", num_hidden_layers=0))
    assert "\n" not in str(told.value)


def test_model_without_queries_says_what_can_be_named() -> None:
    encoder = Encoder(tiny_model("ctrl", n_embd=32, dff=48, n_layer=2, n_head=4))
    with pytest.raises(UserError, match="has a usual name of queries and values: set target_modules to some of Wq, Wk, Wv, dense, 0, 2"):
        target_sizes(encoder, ())
    assert len(target_sizes(encoder, ("Wq", "Wv"))) == 4


def test_module_that_sees_single_tokens_is_refused() -> None:
    encoder = Encoder(
        tiny_model("qwen2_moe", num_key_value_heads=2, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8)
    )
    with pytest.raises(UserError, match=r"Module layers\.0\.mlp\.gate sees single tokens, not rows, .* leave it out of target_modules"):
        encoder(padded("right"), [random_lora(encoder, ("mlp.gate",))], [RowBlock(len(LENGTHS), 16, 0)])


SWEEP = """\
name: toy
benchmark: domains
backbone: ./backbone
targets: [apple]
sources: {method: lora, tasks: [apple]}
data: {max_length: 64}
methods: {scalearn: {}}
"""
NEEDS = "needs an encoder of the adapters library, but the backbone is of architecture 'gpt2'"
PLANNED: dict[str, tuple[Callable[[str], str], str]] = {
    "adapters as sources": (
        lambda text: text.replace("method: lora, ", ""),
        f"Method 'scalearn' on bottleneck adapters {NEEDS}: write sources: {{method: lora}}.",
    ),
    "full fine-tuning": (
        lambda text: text.replace("scalearn", "full_ft"),
        f"Method 'full_ft' {NEEDS}: take lora, or a transfer method on LoRAs.",
    ),
    "targets of another architecture": (
        lambda text: text.replace("method: lora", "method: lora, settings: {target_modules: [query]}"),
        "target_modules names 'query', but the backbone's linear modules are c_attn, c_proj, c_fc: name some of these.",
    ),
    "too few positions": (lambda text: text.replace("64", "65"), "is 65, but ./backbone reads at most 64 tokens."),
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_tiny("gpt2", tmp_path_factory.mktemp("gpt2") / "backbone")).parent


@pytest.mark.parametrize("case", list(PLANNED))
def test_plan_refuses_what_a_decoder_cannot_do(
    case: str, gpt2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, sentence = PLANNED[case]
    monkeypatch.chdir(gpt2)
    Path("toy.yaml").write_text(SWEEP)
    assert main(["plan", "toy.yaml"]) == 0
    Path("toy.yaml").write_text(change(SWEEP))
    capsys.readouterr()
    assert main(["plan", "toy.yaml"]) == 2
    told = capsys.readouterr().err
    assert sentence in told, told
    assert told.count("\n") == 1


def test_masks_in_old_checkpoints_are_no_layers_and_deeper_layers_are_refused(tmp_path: Path) -> None:
    file = Path(save_tiny("gpt2", tmp_path)) / "model.safetensors"
    held = load_file(file)
    masks = {f"h.{layer}.attn.{name}": torch.zeros(1) for layer in (0, 1) for name in ("bias", "masked_bias")}
    save_file({**held, **masks}, file, {"format": "pt"})
    load_backbone(str(tmp_path))
    save_file({**held, "h.2.ln_1.weight": torch.zeros(32)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"have layers that its config.json does not describe \(h.2.ln_1.weight, 1 in all\)"):
        load_backbone(str(tmp_path))


def test_loaded_decoder_refuses_adapters_in_one_sentence(gpt2: Path) -> None:
    backbone = load_backbone(str(gpt2 / "backbone"))
    head = scalearn.HeadConfig("classification", 2)
    with pytest.raises(UserError, match=f"Method 'adapter' {NEEDS}: take lora"):
        scalearn.attach(backbone, "adapter", head)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_empty_text_is_one_padding_token_whatever_stands_beside_it(attention: str, gpt2: Path) -> None:
    backbone = load_backbone(str(gpt2 / "backbone"), attention=attention)
    model = scalearn.attach(backbone, "lora", scalearn.HeadConfig("classification", 2), max_length=32).eval()
    one = torch.tensor([[backbone.tokenizer.pad_token_id]])
    with torch.no_grad():
        expected = model({"input_ids": one, "attention_mask": torch.ones_like(one)}).softmax(1)[0].tolist()
    for texts in ([""], ["", "good"], ["", "a longer text beside it"]):
        assert list(model.predict(texts)[0].scores.values()) == pytest.approx(expected, abs=1e-6)


def test_end_of_sequence_token_pads_where_there_is_no_other(gpt2: Path, tmp_path: Path) -> None:
    assert load_backbone(str(gpt2 / "backbone")).tokenizer.pad_token_id == 2
    place = Path(save_tiny("gpt2", tmp_path))
    described = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**described, "eos_token": None}))
    (place / "special_tokens_map.json").unlink()
    with pytest.raises(UserError, match="has no padding token and no end-of-sequence token: name a pad_token"):
        load_backbone(str(place))
