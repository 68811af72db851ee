"""A target on LoRAs as one LoRA: the same function, run by PEFT alone, beside the backbone or merged into it."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerFast

import scalearn
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.heads import HeadConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.lora import LoraBranch
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import TransferModel, load_backbone, load_model
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers.graphs import train_graph
from tests.scalearn.helpers.lora import save_lora, states_by_peft_alone
from tests.scalearn.helpers.small import save_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def model(place: str, tmp_path_factory: pytest.TempPathFactory) -> TransferModel:
    """A target on LoRAs of unlike ranks, modules and factors."""
    root, loaded = tmp_path_factory.mktemp("sources"), load_backbone(place)
    save_lora(loaded.encoder, root / "first", rank=3, seed=1)
    save_lora(loaded.encoder, root / "second", rank=5, seed=2, scale=0.5)
    save_lora(loaded.encoder, root / "third", ("value", "key"), rank=2, seed=3)
    sources = load_source_adapters(loaded.encoder, {name: root / name for name in ("first", "second", "third")})
    head = HeadConfig("classification", 3)
    return scalearn.attach(loaded, "scalearn", head, sources=sources, label_names=("a", "b", "c"), max_length=32).eval()


def drawn(model: TransferModel, method: str, seed: int = 7) -> TransferModel:
    head = HeadConfig("classification", 3)
    made = scalearn.attach(model.backbone, method, head, sources=model.sources, label_names=("a", "b", "c"), max_length=32)
    assert isinstance(made.branch, ScalingBranch)
    torch.nn.init.normal_(made.branch.omega.omega, std=0.7, generator=torch.Generator().manual_seed(seed))
    return made.eval()


def states(model: TransferModel) -> torch.Tensor:
    return model.encoder(batch(), [model.branch], [RowBlock(*batch()["input_ids"].shape, 0)]).detach()


@pytest.mark.parametrize(
    "method", ["scalearn", "scalearn_uniform", "scalearn_pp", "scalearn_uniform_pp", "scalearn_mean", "scalearn_softmax"]
)
def test_folded_lora_is_the_target_and_is_reloaded_with_its_head(method: str, model: TransferModel, tmp_path: Path) -> None:
    target = drawn(model, method)
    folded = fold(target)
    assert isinstance(folded.model.branch, LoraBranch)
    assert (folded.model.branch.shape.rank, folded.model.branch.shape.scale) == (3 + 5 + 2, 1.0)
    torch.testing.assert_close(states(folded.model), states(target), atol=1e-5, rtol=1e-5)
    export_adapter(folded, tmp_path / "out")
    again = load_model(tmp_path / "out", model.backbone)
    with torch.no_grad():
        torch.testing.assert_close(again(batch()), target(batch()), atol=1e-5, rtol=1e-5)
    assert again.spec.heads[0].label_names == ("a", "b", "c")


def test_peft_alone_runs_and_merges_the_exported_target(model: TransferModel, place: str, tmp_path: Path) -> None:
    target = drawn(model, "scalearn")
    export_adapter(fold(target), tmp_path / "out", scores={"test": {"accuracy": 0.75}}, notes=["A note."])
    expected = states(target)
    for merged in (False, True):
        torch.testing.assert_close(states_by_peft_alone(place, tmp_path / "out", batch(), merged=merged), expected, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (10, 10, False)
    assert config["target_modules"] == ["query", "key", "value"]
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "peft"
    assert re.search(r"A LoRA of rank 10 for .* 3 frozen source LoRAs \(first, second, third\)", card.content)
    assert "from peft import PeftModel" in card.content
    assert "A note." in card.content
    assert "load_adapter" not in card.content


def test_pruned_lora_leaves_out_what_hardly_counts(model: TransferModel, place: str, tmp_path: Path) -> None:
    target = drawn(model, "scalearn_uniform")
    assert isinstance(target.branch, ScalingBranch)
    with torch.no_grad():
        target.branch.omega.omega[:, 1] = 0.0
    folded = fold(target, prune=0.01)
    assert folded.kept == ("first", "third")
    assert folded.model.spec.settings["rank"] == 5
    export_adapter(folded, tmp_path / "out")
    torch.testing.assert_close(states_by_peft_alone(place, tmp_path / "out", batch()), states(target), atol=1e-5, rtol=0)


def test_lora_itself_is_there_already(model: TransferModel) -> None:
    with pytest.raises(UserError, match="Method 'lora' left an ordinary adapter already: take the adapter/ folder of its job"):
        fold(fold(drawn(model, "scalearn")).model)


def test_exported_lora_is_a_source_again(model: TransferModel, tmp_path: Path) -> None:
    target = drawn(model, "scalearn")
    export_adapter(fold(target), tmp_path / "out")
    again = load_source_adapters(model.encoder, {"folded": tmp_path / "out"})
    assert again.lora is not None
    assert again.lora.ranks == ((10,) * 6,)


def test_command_exports_a_lora_of_a_sweep(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"""\
name: loras
benchmark: domains
backbone: {place}
targets: [apple]
data: {{train_rows: 24, evaluation_rows: 12, max_length: 24}}
sources: {{method: lora, tasks: [apple, coachella], settings: {{rank: 4}}}}
methods: {{scalearn_pp: {{}}}}
training: {{epochs: 1}}
"""
    Path("loras.yaml").write_text(text)
    store, graph = Store(Path("runs")), Sweep.load("loras.yaml").expand()
    train_graph(graph, store)
    (node,) = (node for node in graph.nodes() if "/transfer/" in node)
    assert main(["export", "loras.yaml", "--node", node, "--to", "out"]) == 0
    assert "2 of 2 sources (apple, coachella)" in capsys.readouterr().out
    assert json.loads(Path("out/adapter_config.json").read_text())["r"] == 8
