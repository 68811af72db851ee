"""Adapters that others wrote: what is stacked computes as in the adapters library, what would not is refused by name."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.configuration import BnConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import SEQ_BN
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.model.model import fill_bottleneck
from tests.scalearn.helpers.tiny import encoder_of, library_model, states_of, token_batch

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> Any:
    return library_model("bert")


@pytest.fixture(scope="module")
def encoder(model: Any) -> Any:
    return encoder_of(model)


def saved(model: Any, place: Path, config: Any) -> Path:
    """An adapter of the library with random weights, saved by it and gone from the model."""
    model.add_adapter("one", config=config)
    try:
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "adapters.one." in key:
                    parameter.normal_(std=0.3)
        # The library saves layer norms before an adapter, which share memory, as pickles only.
        model.save_adapter(str(place), "one", use_safetensors=False, with_head=False)
    finally:
        model.delete_adapter("one")
    pickled = place / "pytorch_adapter.bin"
    save_file({name: tensor.clone() for name, tensor in torch.load(pickled).items()}, place / "adapter.safetensors")
    pickled.unlink()
    return place


def seq_bn(**fields: Any) -> Any:
    return BnConfig.from_dict({**SEQ_BN, "reduction_factor": 4, **fields})


def rewrite(place: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(place / "adapter.safetensors")), place / "adapter.safetensors")


def edit(place: Path, **fields: Any) -> None:
    path = place / "adapter_config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "config": {**whole["config"], **fields}}))


def computed(encoder: Any, place: Path, *, allow_pickle: bool = False) -> Tensor:
    sources = load_source_adapters(encoder, {"one": place}, allow_pickle=allow_pickle)
    branch = BottleneckBranch(BnConfig.from_dict(dict(sources.config)), encoder.sites, encoder.hidden_size).eval()
    fill_bottleneck(branch, [BottleneckWeights(s.down_weight, s.down_bias, s.up_weight.flatten(1), s.up_bias[0]) for s in sources.stacks])
    return states_of(encoder, branch, token_batch())


def of_the_library(model: Any, place: Path) -> Tensor:
    name = model.load_adapter(str(place), load_as="check", use_safetensors=True, set_active=True)
    try:
        with torch.no_grad():
            states: Tensor = model.base_model(**token_batch())[0][:, 0]
        return states
    finally:
        model.delete_adapter(name)


def old_names(held: Tensors) -> Tensors:
    return {name.replace(".adapters.", ".layer_text_lang_adapters."): tensor for name, tensor in held.items()}


ACCEPTED: dict[str, tuple[dict[str, Any], Callable[[Path], object]]] = {
    "as saved": ({}, lambda place: None),
    **{f"non_linearity {word}": ({"non_linearity": word}, lambda place: None) for word in ("gelu", "GELU", "swish", "leakyrelu", "tanh")},
    "names of the first versions": ({}, lambda place: rewrite(place, old_names)),
    "an old task adapter's key": (
        {},
        lambda place: (
            rewrite(place, old_names),
            edit(place, invertible_adapter={"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}),
            whole(place, type="text_task"),
        ),
    ),
    "names below the heads": ({}, lambda place: rewrite(place, lambda held: {name.removeprefix("bert."): t for name, t in held.items()})),
    "half precision": ({}, lambda place: rewrite(place, lambda held: {name: t.half() for name, t in held.items()})),
    "bfloat16": ({}, lambda place: rewrite(place, lambda held: {name: t.bfloat16() for name, t in held.items()})),
    "double precision": ({}, lambda place: rewrite(place, lambda held: {name: t.double() for name, t in held.items()})),
    "dropout in its training": ({"dropout": 0.5}, lambda place: None),
    "a width of one": ({"reduction_factor": 1000}, lambda place: None),
    "wider than the backbone": ({"reduction_factor": 0.5}, lambda place: None),
}


def whole(place: Path, **fields: Any) -> None:
    path = place / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("case", list(ACCEPTED))
def test_accepted_adapter_computes_as_in_the_library(case: str, model: Any, encoder: Any, tmp_path: Path) -> None:
    fields, change = ACCEPTED[case]
    place = saved(model, tmp_path / "one", seq_bn(**fields))
    change(place)
    torch.testing.assert_close(computed(encoder, place), of_the_library(model, place), atol=1e-5, rtol=0)


def test_head_among_the_tensors_is_left_out(model: Any, encoder: Any, tmp_path: Path) -> None:
    place = saved(model, tmp_path / "one", seq_bn())
    before = computed(encoder, place)
    rewrite(place, lambda held: {**held, "heads.one.1.weight": torch.ones(2, 32)})
    assert torch.equal(computed(encoder, place), before)


@pytest.mark.parametrize("name", ["a.b", "../x", "a/b", "(.*)", "one\nline"])
def test_any_name_of_an_adapter_is_a_name(name: str, model: Any, encoder: Any, tmp_path: Path) -> None:
    place = saved(model, tmp_path / "one", seq_bn())
    before = computed(encoder, place)
    rewrite(place, lambda held: {key.replace(".adapters.one.", f".adapters.{name}."): tensor for key, tensor in held.items()})
    whole(place, name=name)
    assert torch.equal(computed(encoder, place), before)


def test_pickled_adapter_is_what_the_same_one_in_safetensors_is(model: Any, encoder: Any, tmp_path: Path) -> None:
    place = saved(model, tmp_path / "one", seq_bn())
    torch.save(load_file(place / "adapter.safetensors"), place / "pytorch_adapter.bin", _use_new_zipfile_serialization=False)
    before = computed(encoder, place)
    (place / "adapter.safetensors").unlink()
    assert torch.equal(computed(encoder, place, allow_pickle=True), before)


CONFIGURED: dict[str, tuple[Any, str]] = {
    "houlsby": ("double_seq_bn[reduction_factor=4]", "mh_adapter: True"),
    "parallel": ("par_bn[reduction_factor=4]", "is_parallel: True"),
    "scaled parallel": ("scaled_par_bn[reduction_factor=4]", "is_parallel: True"),
    "MAD-X": ("seq_bn_inv[reduction_factor=4]", "inv_adapter: nice"),
    "AdapterPlus": (
        lambda: seq_bn(original_ln_before=False, original_ln_after=False, residual_before_ln=False),
        "original_ln_before: False",
    ),
    "the first Houlsby": (lambda: seq_bn(adapter_residual_before_ln=True), "adapter_residual_before_ln: True"),
    "layer norm before": (lambda: seq_bn(ln_before=True), "ln_before: True"),
    "layer norm after": (lambda: seq_bn(ln_after=True), "ln_after: True"),
    "no layer norm afterwards": (lambda: seq_bn(original_ln_after=False), "original_ln_after: False"),
    "a layer left out": (lambda: seq_bn(leave_out=[0]), "leave_out: [0]"),
    "a gate": (lambda: seq_bn(use_gating=True), "use_gating: True"),
    "after attention alone": (lambda: seq_bn(mh_adapter=True, output_adapter=False), "mh_adapter: True"),
    "prefix tuning": ("prefix_tuning", "no bottleneck"),
    "prompt tuning": ("prompt_tuning", "no bottleneck"),
    "LoRA": ("lora", "no bottleneck"),
    "MAM": ("mam", "no bottleneck"),
    "UniPELT": ("unipelt", "no bottleneck"),
}


@pytest.mark.parametrize("case", list(CONFIGURED))
def test_adapter_of_another_kind_is_refused_by_what_it_is(case: str, model: Any, encoder: Any, tmp_path: Path) -> None:
    config, sentence = CONFIGURED[case]
    saved(model, tmp_path / "one", config() if callable(config) else config)
    refused(encoder, tmp_path / "one", sentence)


@pytest.mark.parametrize("kind", ["mam", "unipelt", "seq_bn_inv", "lora", "prefix_tuning", "prompt_tuning", "double_seq_bn", "loreft"])
def test_weights_of_another_kind_under_a_plain_configuration_are_refused(kind: str, model: Any, encoder: Any, tmp_path: Path) -> None:
    place = saved(model, tmp_path / "one", seq_bn())
    saved(model, tmp_path / "other", kind)
    other = load_file(tmp_path / "other/adapter.safetensors")
    rewrite(place, lambda held: {**other, **held})
    refused(encoder, place, "'bert.", "cannot be used")


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        held = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in held.items():
            archive.writestr(name, content)


PICKLES: dict[str, tuple[Callable[[Tensors, Path], object], str]] = {
    "a list": (lambda held, path: torch.save(list(held.values()), path), "no mapping from names to tensors"),
    "one tensor": (lambda held, path: torch.save(torch.ones(2), path), "no mapping from names to tensors"),
    "numbers for names": (lambda held, path: torch.save(dict(enumerate(held.values())), path), "no mapping from names to tensors"),
    "a tensor without memory": (
        lambda held, path: torch.save({**held, next(iter(held)): next(iter(held.values())).to("meta")}, path),
        "torch.strided on meta, which is none of",
    ),
    "a sparse tensor": (
        lambda held, path: torch.save({name: t.to_sparse() if t.ndim == 2 else t for name, t in held.items()}, path),
        "sparse_coo",
    ),
    "one number spread over a terabyte": (
        lambda held, path: torch.save({name: torch.ones(1).expand(10**6, 10**6) for name in held}, path),
        "has shape [1000000, 1000000]",
    ),
    "compressed records": (lambda held, path: (torch.save(held, path), compressed(path)), "is compressed"),
    "a cut": (lambda held, path: (torch.save(held, path), os.truncate(path, 3000)), "cannot be used"),
    "nothing": (lambda held, path: path.write_bytes(b""), "cannot be used"),
    "20,000 levels": (lambda held, path: path.write_bytes(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."), "cannot be used"),
    "too many bytes": (lambda held, path: (path.write_bytes(b""), os.truncate(path, 50 * 2**30)), "explains at most"),
}


@pytest.mark.parametrize("case", list(PICKLES))
def test_pickle_of_something_else_is_refused_in_one_sentence(case: str, model: Any, encoder: Any, tmp_path: Path) -> None:
    write, sentence = PICKLES[case]
    place = saved(model, tmp_path / "one", seq_bn())
    held = load_file(place / "adapter.safetensors")
    (place / "adapter.safetensors").unlink()
    write(held, place / "pytorch_adapter.bin")
    refused(encoder, place, sentence, allow_pickle=True)


def refused(encoder: Any, place: Path, *sentences: str, allow_pickle: bool = False) -> None:
    with pytest.raises(UserError) as caught:
        load_source_adapters(encoder, {"one": place}, allow_pickle=allow_pickle)
    told = str(caught.value)
    assert all(sentence in told for sentence in sentences), told
    assert "\n" not in told
