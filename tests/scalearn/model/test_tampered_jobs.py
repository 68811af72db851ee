"""Finished jobs that were damaged or tampered with: refused in one sentence, before anything of the size they claim is built."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalearn.errors import UserError
from scalearn.model.model import LoadedBackbone, load_model
from tests.scalearn.helpers.small import data, job, run

SOURCES = ("apple", "coachella")


@pytest.fixture(scope="module")
def trained(place: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two source jobs, and a job that combines them."""
    root = tmp_path_factory.mktemp("trained")
    for name in SOURCES:
        assert run(job("adapter", (data(f"domains/{name}"),), place), root / name).error is None
    config = job("scalearn", (data("domains/apple"),), place, {}, sources=SOURCES, learning_rate=5e-3)
    assert run(config, root / "scalearn", sources_of(root)).error is None
    return root


def sources_of(trained: Path) -> Mapping[str, Path]:
    return {name: trained / name for name in SOURCES}


def refusal(directory: Path, backbone: LoadedBackbone, sources: Mapping[str, str | Path] | None) -> str:
    with pytest.raises(UserError) as caught:
        load_model(directory, backbone, sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("transfer_config.json", b"{", "transfer_config.json"),
        ("transfer_config.json", b'{"method": "scalearn"}', "transfer_config.json"),
        ("omega.safetensors", b"", "omega.safetensors"),
        ("head.safetensors", b"nonsense", "head.safetensors"),
        ("omega.safetensors", None, "omega.safetensors"),
    ],
)
def test_damaged_job_is_refused_by_the_name_of_its_file(
    name: str, content: bytes | None, words: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path
) -> None:
    sources = sources_of(trained)
    load_model(trained / "scalearn", backbone, sources).save(tmp_path)
    file = tmp_path / "transfer" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert words in refusal(tmp_path, backbone, sources)


def test_omega_of_another_shape_is_refused(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    sources = sources_of(trained)
    load_model(trained / "scalearn", backbone, sources).save(tmp_path)
    save_file({"omega": torch.zeros(3, 2, 32)}, tmp_path / "transfer/omega.safetensors")
    assert "'omega' has shape [3, 2, 32] in the file, and shape [2, 2, 32] in the model" in refusal(tmp_path, backbone, sources)


NAN = float("nan")
TAMPERED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a billion labels": ("heads", {"labels": 10**9, "label_names": None}, "tensors differ"),
    "labels that are a word": ("heads", {"labels": "two"}, "labels and max_length of a head must be whole numbers"),
    "no labels": ("heads", {"labels": NAN}, "labels and max_length of a head must be whole numbers"),
    "more names than labels": ("heads", {"label_names": ["a"] * 7}, "labels and 7 names of them"),
    "inputs of a billion tokens": ("heads", {"max_length": 10**9}, "the backbone reads at most 64"),
    "a head of no known kind": ("heads", {"kind": "oracle"}, "a head is of no known kind"),
    "a head of 7 layers": ("heads", {"layers": 7}, "a head is of no known kind"),
    "dropout that is no number": ("heads", {"dropout": NAN}, "dropout of a head must be"),
    "an adapter too wide for its weights": ("", {"method": "adapter", "settings": {"reduction_factor": 1e-9}}, "but the weights hold"),
    "a setting that is a word": (
        "",
        {"method": "adapter", "settings": {"reduction_factor": "x"}},
        "transfer_config.json cannot be read, or",
    ),
    "a setting of another method": ("", {"method": "adapter", "settings": {}}, "transfer_config.json cannot be read, or"),
    "no such method": ("", {"method": "oracle"}, "Unknown method 'oracle'"),
    "a method that is a list": ("", {"method": []}, "must be words"),
    "sources that are a number": ("", {"sources": 7}, "cannot be read"),
    "weights of other sources": ("", {"built_on": {"sources": ["a"]}}, "there are 2 sources and weights of 1"),
}


@pytest.mark.parametrize("case", list(TAMPERED))
def test_configuration_that_was_tampered_with_is_refused_in_one_sentence(
    case: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path
) -> None:
    part, changes, sentence = TAMPERED[case]
    sources = sources_of(trained)
    shutil.copytree(trained / "scalearn/transfer", tmp_path / "transfer")
    path = tmp_path / "transfer/transfer_config.json"
    saved = json.loads(path.read_text())
    saved = {**saved, part: [{**saved[part][0], **changes}]} if part else {**saved, **changes}
    path.write_text(json.dumps(saved))
    told = refusal(tmp_path, backbone, sources)
    assert sentence in told, told
    assert "\n" not in told


@pytest.mark.parametrize("text", ["[" * 20_000 + "]" * 20_000, "[]", "{}", '{"method": 1, "method": 2}', "9" * 5_000, ""])
def test_configuration_that_is_none_is_refused(text: str, trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    shutil.copytree(trained / "scalearn/transfer", tmp_path / "transfer")
    (tmp_path / "transfer/transfer_config.json").write_text(text)
    assert "transfer_config.json cannot be read" in refusal(tmp_path, backbone, sources_of(trained))


@pytest.mark.parametrize("file", ["omega.safetensors", "head.safetensors"])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_that_are_no_numbers_are_refused(file: str, value: float, trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    shutil.copytree(trained / "scalearn/transfer", tmp_path / "transfer")
    path = tmp_path / "transfer" / file
    save_file({name: torch.full_like(tensor, value) for name, tensor in load_file(path).items()}, path)
    assert f"{file} holds NaN or infinity" in refusal(tmp_path, backbone, sources_of(trained))


def test_adapter_whose_head_claims_a_billion_labels_is_refused(trained: Path, backbone: LoadedBackbone, tmp_path: Path) -> None:
    shutil.copytree(trained / "apple/adapter", tmp_path / "adapter")
    path = tmp_path / "adapter/head_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "config": {**saved["config"], "num_labels": 10**9}}))
    assert "tensors differ" in refusal(tmp_path, backbone, None)
