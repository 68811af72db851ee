"""A model in a program of one's own: modes, copies, losses and groups, beside other models and other people's accelerators."""

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from adapters.configuration import SeqBnConfig
from transformers import PreTrainedTokenizerFast

import scalearn
from scalearn.errors import UserError
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.methods.fusion import REGULARISATION
from scalearn.model.model import LoadedBackbone, TransferModel
from tests.scalearn.helpers.small import data, save_backbone
from tests.scalearn.helpers.tiny import HIDDEN, LAYERS, encoder_of, library_model, loaded, random_stacks

TEXTS = ["a first text", "another one"]
SMALL = {"propetl": {"reduction_factor": 4}, "adapter": {"reduction_factor": 4}}


@pytest.fixture(scope="module")
def backbone(tokenizer: PreTrainedTokenizerFast) -> LoadedBackbone:
    return loaded(encoder_of(library_model("bert", vocab_size=len(tokenizer))), tokenizer)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def attached(backbone: LoadedBackbone, method: str, dropout: float | None = None, **settings: Any) -> TransferModel:
    sources = None
    if method not in ("adapter", "propetl", "hyperformer"):
        sources = SourceAdapters(("one", "two"), tuple(random_stacks(LAYERS, 2, HIDDEN, 4)), SeqBnConfig(reduction_factor=8).to_dict())
    head = scalearn.HeadConfig("classification", 3, dropout)
    return scalearn.attach(backbone, method, head, sources=sources, settings={**SMALL.get(method, {}), **settings}, max_length=32)


def test_evaluation_leaves_the_callers_accelerator_as_it_is(backbone: LoadedBackbone, accelerator: Accelerator) -> None:
    model = attached(backbone, "scalearn").train()
    with accelerator.autocast():
        inside = model.evaluate(data("domains/apple"), "validation")
    assert accelerator.mixed_precision == "bf16"
    assert Accelerator().mixed_precision == "bf16"
    assert inside == model.evaluate(data("domains/apple"), "validation"), "not computed in float32"
    assert model.training


@pytest.mark.parametrize("method", ["scalearn", "scalearn_gated", "propetl", "adapterfusion", "hyperformer"])
def test_model_is_copied_and_pickled_in_the_midst_of_training(method: str, backbone: LoadedBackbone) -> None:
    model = attached(backbone, method).train()
    inputs = model.tokenise(TEXTS)
    model.loss(inputs, torch.tensor([0, 2])).backward()
    file = io.BytesIO()
    torch.save(model.branch, file)
    twin = copy.deepcopy(model).eval()
    assert torch.equal(twin(inputs), model.eval()(inputs))


def test_models_on_one_backbone_each_have_their_own_mode(backbone: LoadedBackbone) -> None:
    first, second = attached(backbone, "adapter", dropout=0.0).train(), attached(backbone, "adapter").eval()
    inputs = first.tokenise(TEXTS)
    with torch.no_grad():
        torch.nn.init.normal_(first.head.out.weight)
        second.predict(TEXTS)
        assert not torch.equal(first(inputs), first(inputs)), "the backbone's dropout is off"
        first.predict(TEXTS)
        assert first.training
        assert torch.equal(second(inputs), second(inputs))
    assert not second.training


def test_loss_holds_the_penalty_that_the_method_adds(backbone: LoadedBackbone) -> None:
    model = attached(backbone, "adapterfusion").eval()
    inputs, labels = model.tokenise(TEXTS), torch.tensor([0, 2])
    with torch.no_grad():
        values = [fusion.value.weight for fusion in model.branch.modules() if hasattr(fusion, "value")]
        for weight in values:
            weight.add_(0.1)
        expected = REGULARISATION * sum(float((torch.eye(HIDDEN) - weight).pow(2).sum()) for weight in values)
        added = float(model.loss(inputs, labels) - model.head.loss(model(inputs), labels))
    assert len(values) == LAYERS
    assert added == pytest.approx(expected, rel=1e-4)


def test_parameter_groups_are_those_of_the_methods_jobs(backbone: LoadedBackbone) -> None:
    model = attached(backbone, "propetl", mask_learning_rate=0.5)
    groups = model.parameter_groups(1e-3, weight_decay=0.1)
    grouped = {id(parameter): group for group in groups for parameter in group["params"]}
    assert set(grouped) == {id(parameter) for parameter in model.learned().values()}
    for name, parameter in model.learned().items():
        assert grouped[id(parameter)]["lr"] == (0.5 if "scores" in name else 1e-3)
        assert grouped[id(parameter)]["weight_decay"] == (0.0 if "bias" in name else 0.1), name
    omega = attached(backbone, "scalearn").parameter_groups(1e-3, weight_decay=0.1)[0]
    assert omega["weight_decay"] == 0.0
    torch.optim.AdamW(groups).step()


def test_head_drops_what_the_backbone_says_unless_told(tokenizer: PreTrainedTokenizerFast) -> None:
    backbone = loaded(encoder_of(library_model("bert", vocab_size=len(tokenizer), classifier_dropout=0.4)), tokenizer)
    assert attached(backbone, "adapter").head.dropout == 0.4
    assert attached(backbone, "adapter", dropout=0.2).head.dropout == 0.2


@pytest.mark.parametrize("method", ["scalearn", "scalearn_gated", "adapterfusion"])
def test_converted_branch_takes_its_sources_along_and_leaves_them_to_others(method: str, backbone: LoadedBackbone) -> None:
    model = attached(backbone, method)
    first = model.branch
    second = scalearn.attach(backbone, method, scalearn.HeadConfig("classification", 3), sources=model.sources).branch
    shared, names = tuple(first.stacks), list(first.state_dict())
    first.to(torch.float32)
    assert all(now is then for now, then in zip(first.stacks, shared, strict=True)), "jobs of a pack no longer share their sources"
    states = torch.randn(2, 3, HIDDEN)
    before = first.eval().added(0, states)
    first = first.double()
    first.begin_pass()
    torch.testing.assert_close(first.added(0, states.double()), before.double(), atol=1e-4, rtol=0)
    assert list(first.state_dict()) == names
    assert all(stack.up_weight.dtype == torch.float64 for stack in first.stacks)
    assert all(now is then for now, then in zip(second.stacks, shared, strict=True))
    assert all(stack.up_weight.dtype == torch.float32 for stack in shared)


def test_converted_model_predicts_as_before_and_is_saved_with_the_sources_that_it_was_given(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    own = loaded(encoder_of(library_model("bert", vocab_size=len(tokenizer))), tokenizer)
    model = attached(own, "scalearn").eval()
    inputs = model.tokenise(TEXTS)
    before = model(inputs)
    model.double()
    torch.testing.assert_close(model(inputs), before, atol=1e-4, rtol=0)
    model.bfloat16().save(tmp_path)
    assert scalearn.load_model(tmp_path, own, model.sources).sources is model.sources


def test_texts_are_cut_to_a_length_that_is_no_multiple_of_eight(backbone: LoadedBackbone) -> None:
    model = scalearn.attach(backbone, "adapter", scalearn.HeadConfig("classification", 2), max_length=11).eval()
    inputs = model.tokenise(["short", "a text of far more than eleven bytes"])
    assert inputs["attention_mask"].sum(dim=1).tolist() == [7, 11]
    assert inputs["input_ids"].shape == (2, 16)
    assert len(model.predict(["a text of far more than eleven bytes"])) == 1


def test_prediction_is_computed_in_float32_whatever_the_caller_computes_in(backbone: LoadedBackbone) -> None:
    model = attached(backbone, "scalearn")
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.predict(TEXTS)
    assert inside == model.predict(TEXTS)


def test_reloaded_head_drops_as_much_as_before(backbone: LoadedBackbone, tmp_path: Path) -> None:
    model = attached(backbone, "adapter", dropout=0.5)
    model.save(tmp_path)
    assert scalearn.load_model(tmp_path, backbone).head.dropout == 0.5
    path = tmp_path / "transfer/transfer_config.json"
    saved = json.loads(path.read_text())
    del saved["heads"][0]["dropout"]  # as an earlier version wrote it
    path.write_text(json.dumps(saved))
    assert scalearn.load_model(tmp_path, backbone).head.dropout == backbone.encoder.head_dropout


def test_backbone_is_loaded_with_gradient_checkpointing_where_it_is_asked_for(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    loaded_again = scalearn.load_backbone(save_backbone(tmp_path, tokenizer), gradient_checkpointing=True)
    model = attached(loaded_again, "adapter")
    first = model.loss(model.tokenise(TEXTS), torch.tensor([0, 2]))
    model.predict(TEXTS)
    with pytest.raises(UserError, match="call backward first"):
        first.backward()
    model.loss(model.tokenise(TEXTS), torch.tensor([0, 2])).backward()
