"""Which parameters decay, against the rule of the transformers library's own trainer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer

from scalearn.backbone.encoder import load_encoder, load_tokenizer
from scalearn.backbone.registry import get_backbone
from scalearn.data import tokenised
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.methods.registry import METHODS, get_method
from scalearn.training.job import JobRun
from scalearn.training.pack import PackMember
from tests.scalearn.helpers.small import data, job, run, save_backbone

TASKS = ("domains/apple", "domains/coachella")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def made(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What every job of this module is made of; tokenised once."""
    named = get_backbone(backbone)
    encoder, tokenizer = load_encoder(named), load_tokenizer(named)
    root = tmp_path_factory.mktemp("sources")
    assert run(job("adapter", (data(TASKS[0]),), backbone), root / "apple").error is None
    return {
        "encoder": encoder,
        "sources": load_source_adapters(encoder, {"apple": root / "apple"}),
        "tasks": [tokenised(data(task), tokenizer, named.origin, root=None, cache=None) for task in TASKS],
    }


def job_run(method: str, backbone: str, made: Mapping[str, Any], directory: Path, **optimisation: Any) -> JobRun:
    entry = get_method(method)
    count = 2 if entry.stage == "joint" else 1
    settings = {"omega": (1.0,)} if method == "scalearn_fixed" else {}
    sources = ("apple",) if entry.needs_sources else ()
    config = job(method, tuple(map(data, TASKS[:count])), backbone, settings, sources=sources, **optimisation)
    return JobRun(PackMember(config, directory), made["encoder"], made["tasks"][:count], made["sources"] if sources else None)


@pytest.mark.parametrize("method", [key for key in METHODS if key != "adaptersoup"])
def test_decayed_parameters_are_those_of_the_librarys_trainer(method: str, backbone: str, made: Mapping[str, Any], tmp_path: Path) -> None:
    one = job_run(method, backbone, made, tmp_path, weight_decay=0.1)
    whole = nn.ModuleDict({"branch": one.branch, "heads": nn.ModuleList(one.heads)})
    names = set(Trainer.get_decay_parameter_names(None, whole))
    expected = {name for name, parameter in whole.named_parameters() if parameter.requires_grad and name in names}
    if method.startswith("scalearn"):  # omegas, and the gates that stand for them, take a decay of their own, none unless asked
        expected = {name for name in expected if "omega" not in name and "gates" not in name}
    decays = {id(parameter): group["weight_decay"] for group in one.optimizer.param_groups for parameter in group["params"]}
    assert {name for name, parameter in whole.named_parameters() if decays.get(id(parameter), 0.0) > 0} == expected
    assert expected
    assert set(decays) == {id(parameter) for parameter in one.learned().values()}


def test_step_without_gradient_shrinks_weights_and_leaves_biases_and_norms(backbone: str, made: Mapping[str, Any], tmp_path: Path) -> None:
    one = job_run("propetl", backbone, made, tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in one.learned().items()}
    for parameter in one.learned().values():
        parameter.grad = torch.zeros_like(parameter)
    one.optimizer.step()
    rates = {"scores": 5e-3}
    for name, parameter in one.learned().items():
        rate = next((rate for part, rate in rates.items() if part in name), 1e-3)
        factor = 1.0 if "bias" in name else 1 - rate * 0.1
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_job_without_weight_decay_keeps_its_parameter_groups(backbone: str, made: Mapping[str, Any], tmp_path: Path) -> None:
    """A checkpoint names the optimiser's states by their place in them."""
    one = job_run("adapter", backbone, made, tmp_path)
    assert [group["weight_decay"] for group in one.optimizer.param_groups] == [0.0, 0.0]
