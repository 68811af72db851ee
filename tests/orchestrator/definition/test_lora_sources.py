"""Sweeps over LoRA sources: which jobs they make, what identifies them, and what `plan` refuses in one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

SWEEP = """\
name: loras
benchmark: domains
backbone: minilm
targets: [apple, bbc]
sources: {method: lora, tasks: [apple, coachella], settings: {rank: 4, target_modules: [query, value]}}
methods:
  lora: {}
  adapter: {}
  scalearn: {}
  scalearn_uniform_pp: {sources: [target, coachella]}
"""


def graph(*overrides: str, text: str = SWEEP) -> Graph:
    return Sweep.from_text(text, overrides=overrides).expand()


def test_sources_are_loras_and_other_rows_are_what_they_were() -> None:
    jobs = list(graph())
    transfer = [job for job in jobs if job.config.stage == "transfer"]
    assert {job.config.source_method for job in transfer} == {"lora"}
    assert {parent.config.method for job in transfer for parent in job.parents} == {"lora"}
    loras = {job.node for job in jobs if job.config.method == "lora"}
    assert len(loras) == 3, "the row's jobs and the sources are the same ones"
    assert all(job.config.settings["rank"] == 4 for job in jobs if job.config.method == "lora")
    plain = graph("sources={tasks: [apple, coachella]}")
    assert {job.node for job in jobs if job.config.method == "adapter"} == {
        job.node for job in plain if job.config.method == "adapter" and job.config.task in ("domains/apple", "domains/bbc")
    }
    assert not {job.node for job in transfer} & {job.node for job in plain}


def test_row_of_lora_in_a_sweep_over_adapters_has_its_own_settings() -> None:
    jobs = graph("sources={tasks: [apple], settings: {reduction_factor: 8}}")
    assert {job.config.settings["rank"] for job in jobs if job.config.method == "lora"} == {8}
    assert {job.config.source_method for job in jobs} == {"adapter"}


REFUSED = {
    "methods.adapterfusion={}": "--set methods.adapterfusion: Method 'adapterfusion' combines bottleneck adapters, not LoRAs: take one of",
    "sources.method=prefix": "'sources.method' must be",
    "sources.settings={target_modules: [q_proj]}": "target_modules names 'q_proj', but the backbone's linear modules are query, key, value",
    "sources.settings={target_modules: [[query], [value]]}": "Setting 'target_modules' of the source adapters must be one value",
    "sources.settings={reduction_factor: 8}": "Unknown setting 'reduction_factor'",
    "methods.lora.settings={target_modules: [qery]}": "target_modules names 'qery'",
}


@pytest.mark.parametrize("override", REFUSED)
def test_sweep_that_cannot_be_is_one_sentence(override: str) -> None:
    with pytest.raises(UserError) as error:
        graph(override)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert REFUSED[override] in sentence


def write_lora(place: Path, layers: int = 6, hidden: int = 384, **fields: Any) -> Path:
    place.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["query"], **fields}
    (place / "adapter_config.json").write_text(json.dumps(config))
    names = [f"base_model.model.bert.encoder.layer.{layer}.attention.self.query" for layer in range(layers)]
    tensors = {f"{name}.lora_A.weight": np.zeros((4, hidden), np.float32) for name in names}
    tensors |= {f"{name}.lora_B.weight": np.zeros((hidden, 4), np.float32) for name in names}
    (place / "adapter_model.safetensors").write_bytes(save(tensors))
    return place


def test_loras_of_others_are_stacked_and_are_no_jobs(tmp_path: Path) -> None:
    place = write_lora(tmp_path / "mine")
    jobs = graph(f"sources.adapters={{coachella: {place}, hub: owner/lora}}", "methods={scalearn: {}}")
    transfer = [job for job in jobs if job.config.stage == "transfer"]
    assert [job.config.sources for job in transfer] == [("apple", "coachella", "hub")] * 2
    assert len(jobs) == 3
    assert [adapter.origin[:11] for adapter in transfer[0].config.external] == ["files:sha25", "hub:owner/l"]


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"use_dora": True}, "Source adapter 'mine' cannot be added up with others (use_dora: True)"),
        ({"layers": 7}, "it adds at 'bert.encoder.layer.6.attention.self.query', where this backbone has no linear module"),
        ({"hidden": 768}, "has shape [4, 768], but [4, 384] is needed"),
    ],
    ids=str,
)
def test_lora_that_cannot_be_stacked_is_refused_by_plan(about: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    place = write_lora(tmp_path / "mine", **about)
    with pytest.raises(UserError) as error:
        graph(f"sources.adapters={{mine: {place}}}")
    assert sentence in str(error.value)


def test_each_layout_where_the_other_is_meant_is_refused_by_plan(tmp_path: Path) -> None:
    place = write_lora(tmp_path / "mine")
    with pytest.raises(
        UserError, match=r"is in PEFT's layout, but the sources are adapters of AdapterHub: write sources: \{method: lora\}"
    ):
        graph(f"sources={{adapters: {{mine: {place}}}}}")
    (place / "adapter_config.json").write_text(json.dumps({"config": {}, "hidden_size": 384, "name": "mine"}))
    with pytest.raises(UserError, match="Source adapter 'mine'"):
        graph(f"sources.adapters={{mine: {place}}}")


@pytest.mark.parametrize("method", ["ties", "lorahub", "task_arithmetic"])
@pytest.mark.parametrize(
    ("fields", "tasks", "alike"),
    [
        ({"lora_alpha": 4}, "[]", False),
        ({}, "[]", True),
        ({"lora_alpha": 4}, "[apple]", False),
        ({"lora_alpha": 8}, "[apple]", True),
    ],
)
def test_methods_that_merge_loras_want_them_alike_when_planned(
    method: str, fields: dict[str, Any], tasks: str, alike: bool, tmp_path: Path
) -> None:
    """The second external LoRA, and the one that the sweep trains, has rank 4 and alpha 8 at the queries."""
    text = f"""\
name: loras
benchmark: domains
backbone: minilm
targets: [apple]
sources:
  method: lora
  tasks: {tasks}
  settings: {{rank: 4, alpha: 8, target_modules: [query]}}
  adapters: {{one: {write_lora(tmp_path / "one", **fields)}, two: {write_lora(tmp_path / "two")}}}
methods: {{{method}: {{}}, scalearn: {{}}}}
"""
    if alike:
        assert len(graph(text=text)) > 0
        return
    with pytest.raises(
        UserError, match=f"line 10: Method '{method}' merges LoRAs of one rank and alpha at the same modules, but (apple, )?one, two differ"
    ):
        graph(text=text)
    assert len(graph("methods={scalearn: {}}", text=text)) > 0
