"""Multiple choice on the encoder's pooler, compared with the head of transformers, and the methods that use the library's head."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForMultipleChoice, BertModel, PreTrainedTokenizerFast

from scalearn.backbone.encoder import load_encoder
from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig
from scalearn.data import tokenised
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.registry import METHODS
from scalearn.model.model import load_backbone, load_model
from scalearn.training.job import JobRun
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import HIDDEN, job

LIBRARY_HEAD = {"adapter", "lora", "adapter_m", "propetl", "compacter_pp", "ia3"}
COPA = DataConfig("super_glue/copa", "test", train_rows=12, evaluation_rows=6, max_length=24)


def run_of(method: str, backbone: str, shared: Path, tokenizer: PreTrainedTokenizerFast, directory: Path) -> JobRun:
    task = tokenised(COPA, tokenizer, "bytes", root=shared / "benchmarks", cache=None)
    return JobRun(PackMember(job(method, (COPA,), backbone), directory, {}), load_encoder(get_backbone(backbone)), [task], None)


def test_methods_that_score_choices_on_the_pooler_are_the_published_ones() -> None:
    assert {key for key, method in METHODS.items() if not method.pools_choices} == LIBRARY_HEAD


def test_logits_on_the_pooler_are_those_of_transformers(
    backbone: str, shared: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reference = BertForMultipleChoice.from_pretrained(backbone).eval()
    run = run_of("full_ft", backbone, shared, tokenizer, tmp_path)
    run.train_mode(False)
    (head,) = run.heads
    head.out.load_state_dict(reference.classifier.state_dict())
    inputs = {name: torch.randint(3, 200, (6, 16)) for name in ("input_ids",)} | {"attention_mask": torch.ones(6, 16, dtype=torch.int64)}
    encoder = load_encoder(get_backbone(backbone))
    with torch.inference_mode():
        ours = head(encoder(inputs, [], []), RowBlock(6, 16, 0))
        theirs = reference(**{name: values.view(3, 2, 16) for name, values in inputs.items()}).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "pooled", "learned"), [("full_ft", True, True), ("hyperformer_pp", True, False), ("adapter_m", False, True)]
)
def test_pooler_is_pretrained_and_learns_only_with_the_whole_encoder(
    method: str, pooled: bool, learned: bool, backbone: str, shared: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    run = run_of(method, backbone, shared, tokenizer, tmp_path)
    dense = run.heads[0].dense
    assert dense is not None
    assert torch.equal(dense.weight, BertModel.from_pretrained(backbone).pooler.dense.weight) == pooled
    assert ("head.0.dense.weight" in run.learned()) == learned
    optimised = {id(parameter) for group in run.optimizer.param_groups for parameter in group["params"]}
    assert (id(dense.weight) in optimised) == learned


def test_pooler_that_the_checkpoint_lacks_is_drawn_from_the_seed(
    backbone: str, shared: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    BertForMaskedLM(BertConfig.from_pretrained(backbone)).save_pretrained(tmp_path / "masked")
    tokenizer.save_pretrained(tmp_path / "masked")
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # what the process draws otherwise must not matter
        dense = run_of("hyperformer_pp", str(tmp_path / "masked"), shared, tokenizer, tmp_path).heads[0].dense
        assert dense is not None
        drawn.append(dense.weight)
    assert torch.equal(*drawn)


def test_job_on_the_pooler_trains_leaves_its_head_whole_and_counts_what_it_learned(backbone: str, shared: Path, tmp_path: Path) -> None:
    results = {}
    for method in ("adapter", "full_ft"):
        (tmp_path / method).mkdir()
        member = PackMember(job(method, (COPA,), backbone), tmp_path / method, {})
        (outcome,) = train([member], Runtime(device="cpu", data_root=shared / "benchmarks"), lambda *_: None)
        assert outcome.error is None
        results[method] = load_model(tmp_path / method, load_backbone(backbone)).evaluate(COPA, "test", root=shared / "benchmarks")
    assert all(0 <= scores["accuracy"] <= 1 for scores in results.values())
    frozen = run_head_count("hyperformer_pp", backbone, shared, tmp_path / "joint")
    assert frozen == HIDDEN + 1


def run_head_count(method: str, backbone: str, shared: Path, directory: Path) -> int:
    directory.mkdir()
    member = PackMember(job(method, (COPA,), backbone), directory, {})
    (outcome,) = train([member], Runtime(device="cpu", data_root=shared / "benchmarks"), lambda *_: None)
    assert outcome.error is None
    return int(json.loads((directory / "result.json").read_text())["parameters"]["head"])
