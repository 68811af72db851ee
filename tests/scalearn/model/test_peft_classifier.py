"""A target on LoRAs with its head inside transformers' own classifier, as the model card of the export says, by PEFT alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import scalearn
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.heads import HeadConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import LoadedBackbone, TransferModel, load_backbone
from tests.scalearn.backbone.test_unpadded import batch
from tests.scalearn.helpers.foreign import save_tiny
from tests.scalearn.helpers.lora import save_lora


def target_on(backbone: LoadedBackbone, root: Path, modules: tuple[str, ...], head: HeadConfig) -> TransferModel:
    for seed, name in enumerate(("first", "second")):
        save_lora(backbone.encoder, root / name, modules, rank=2 + seed, seed=seed)
    sources = load_source_adapters(backbone.encoder, {name: root / name for name in ("first", "second")})
    names = tuple("abc"[: head.labels]) if head.kind == "classification" else None
    target = scalearn.attach(backbone, "scalearn", head, sources=sources, label_names=names, max_length=32)
    assert isinstance(target.branch, ScalingBranch)
    torch.nn.init.normal_(target.branch.omega.omega, std=0.7)
    for parameter in target.head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return target.eval()


@pytest.mark.parametrize(
    ("kind", "modules", "head"),
    [
        ("roberta", ("query", "value"), HeadConfig("classification", 3)),
        ("roberta", ("query", "dense"), HeadConfig("classification", 2)),  # the classifier has a module `dense` of its own
        ("xlm-roberta", ("query", "value"), HeadConfig("multi_label", 3)),
        ("camembert", ("key",), HeadConfig("regression", 1)),
    ],
)
def test_transformers_own_classifier_gives_the_targets_logits(
    kind: str, modules: tuple[str, ...], head: HeadConfig, tmp_path: Path
) -> None:
    place = save_tiny(kind, tmp_path / "backbone")
    target = target_on(load_backbone(place), tmp_path, modules, head)
    export_adapter(fold(target), tmp_path / "out")
    with torch.no_grad():
        expected = target(batch())
    plain, _, whole = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    for code in (plain, whole):
        code = re.sub(r"directory/of/(?!this)[^\"]*", place, code)
        exec(code.replace("directory/of/this/file", str(tmp_path / "out")), names)
    config = json.loads((tmp_path / "out/classifier/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    model = names["model"].eval()
    for each in (model, model.merge_and_unload()):
        with torch.no_grad():
            torch.testing.assert_close(each(**batch()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "layers"), [("bert", 2), ("mpnet", 2), ("roberta", 1)])
def test_a_classifier_that_computes_otherwise_is_not_written(kind: str, layers: Any, tmp_path: Path) -> None:
    backbone = load_backbone(save_tiny(kind, tmp_path / "backbone"))
    modules = ("q", "v") if kind == "mpnet" else ("query", "value")
    export_adapter(fold(target_on(backbone, tmp_path, modules, HeadConfig("classification", 3, layers=layers))), tmp_path / "out")
    assert not (tmp_path / "out/classifier").exists()
    assert "AutoModelForSequenceClassification" not in (tmp_path / "out/README.md").read_text()


def test_both_folders_are_sources_of_a_next_target(tmp_path: Path) -> None:
    backbone = load_backbone(save_tiny("roberta", tmp_path / "backbone"))
    target = target_on(backbone, tmp_path, ("query", "value"), HeadConfig("classification", 3))
    export_adapter(fold(target), tmp_path / "out")
    again = load_source_adapters(backbone.encoder, {"plain": tmp_path / "out", "whole": tmp_path / "out/classifier"})
    assert again.lora is not None
    assert again.lora.ranks == ((5,) * 4, (5,) * 4)
    plain, whole = (
        scalearn.attach(
            backbone, "scalearn_mean", HeadConfig("classification", 3), sources=load_source_adapters(backbone.encoder, {"one": place})
        )
        for place in (tmp_path / "out", tmp_path / "out/classifier")
    )
    states = [each.encoder(batch(), [each.branch], [RowBlock(*batch()["input_ids"].shape, 0)]) for each in (plain.eval(), whole.eval())]
    torch.testing.assert_close(*states, atol=0, rtol=0)
