"""A file that extends another: the basis with the file's keys set on it, and one text that says both."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

BASIS = """\
name: basis
benchmark: domains
backbone: minilm
targets: [apple, bbc]
methods:
  adapter: {}
  scalearn: {learning_rate: [6e-3, 2e-2], epochs: 4}
training: {epochs: 3, patience: 2}
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        Sweep.load(file)
    return str(caught.value).replace(f"{file.parent}/", "")


def test_keys_of_the_file_are_set_on_the_basis_as_by_the_command_line(tmp_path: Path):
    keys = {"targets": "[apple]", "methods.scalearn.learning_rate": "[1e-3]", "training": "{epochs: 9}", "resources.transfer.gpu": "0"}
    text = "name: own\nextends: basis.yaml\n" + "".join(f"{key}: {value}\n" for key, value in keys.items())
    write(tmp_path, basis=BASIS, own=text)
    own = Sweep.load(tmp_path / "own.yaml")
    told = Sweep.load(tmp_path / "basis.yaml", ["name=own", *(f"{key}={value}" for key, value in keys.items())])
    assert own.model_dump() == told.model_dump()
    assert own.expand().nodes() == told.expand().nodes()
    assert own.methods["scalearn"][0].epochs == 4
    assert own.training.patience != 2  # the value replaced the block
    assert Sweep.load(tmp_path / "own.yaml", ["targets=[bbc]"]).targets == ("bbc",)


def test_basis_lies_beside_the_file_or_else_in_the_package(tmp_path: Path):
    write(tmp_path, own="name: own\nextends: glue_large.yaml\n")
    shipped = Sweep.load(tmp_path / "own.yaml")
    assert shipped.expand().nodes() == Sweep.load("glue_large").expand().nodes()
    assert Sweep.from_text("name: own\nextends: glue_large.yaml\n").targets == shipped.targets
    write(tmp_path, glue_large=BASIS)
    assert Sweep.load(tmp_path / "own.yaml").benchmark == "domains"


def test_bases_may_have_bases(tmp_path: Path):
    write(tmp_path, first=BASIS, second="name: second\nextends: first.yaml\nseeds: [5]\n", third="name: third\nextends: second.yaml\n")
    third = Sweep.load(tmp_path / "third.yaml")
    assert (third.name, third.seeds, third.targets) == ("third", {"default": (5,)}, ("apple", "bbc"))


def test_circle_is_named(tmp_path: Path):
    write(tmp_path, **{one: f"name: {one}\nextends: {two}.yaml\n" for one, two in (("a", "b"), ("b", "c"), ("c", "b"))})
    assert (
        refusal(tmp_path / "a.yaml")
        == "c.yaml, line 2: b.yaml extends c.yaml extends b.yaml, which is a circle: let one of them stand alone."
    )


def test_errors_name_the_line_of_the_file_that_holds_them(tmp_path: Path):
    write(tmp_path, basis=BASIS.replace("epochs: 3", "epochs: 0"), own="name: own\nextends: basis.yaml\nmethods.scalearn.epochs: 0\n")
    assert refusal(tmp_path / "own.yaml").splitlines() == [
        "basis.yaml, line 8: 'training.epochs' must be at least 1, not 0.",
        "own.yaml, line 3: 'methods.scalearn.epochs' must be at least 1, not 0.",
    ]


def test_basis_cannot_be_set_from_the_command_line():
    with pytest.raises(UserError, match=r"^--set extends: a basis cannot be set; write 'extends' in a file\.$"):
        Sweep.load("quickstart", ["extends=glue.yaml"])


def test_manifest_stands_for_the_files_where_they_are_not_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path, basis=BASIS, own="name: own\nextends: basis.yaml\ntargets: [bbc]\n")
    sweep = Sweep.load(tmp_path / "own.yaml", ["seeds=[7]"])
    manifest = tmp_path / "some store/sweeps/own.json"
    write_manifest(sweep, sweep.expand(), Store(tmp_path / "some store"), "", None)
    for file in ("own", "basis"):
        (tmp_path / f"{file}.yaml").unlink()
    assert "extends:" not in json.loads(manifest.read_text())["yaml"]
    found = Sweep.load(manifest)
    assert found.expand().nodes() == sweep.expand().nodes()
    assert found.store == str(tmp_path / "some store")
    assert Sweep.load(manifest, ["seeds=[8]"]).seeds == {"default": (8,)}
    assert main(["plan", str(manifest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"]["total"] == len(sweep.expand())
    assert main(["status", str(manifest)]) == 0
    assert main(["report", str(manifest), "--to", str(tmp_path / "report")]) == 0


NO_MANIFEST = "FILE is no manifest of a sweep: name a sweep file, or a file STORE/sweeps/NAME.json."


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("sweeps/own.json", "{}", NO_MANIFEST),
        (
            "own.json",
            '{"yaml": "", "overrides": []}',
            "FILE is no manifest of a sweep: name a sweep file, or a file STORE/sweeps/NAME.json.",
        ),
        ("sweeps/own.json", "[]", "FILE is no manifest of a sweep: it holds list where an object belongs."),
        ("sweeps/own.json", None, "Cannot read the manifest FILE: No such file or directory."),
    ],
)
def test_file_that_is_no_manifest_is_refused(name: str, content: str | None, sentence: str, tmp_path: Path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as caught:
        Sweep.load(file)
    assert str(caught.value) == sentence.replace("FILE", str(file))


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cn", "Co", "Zl", "Zp"]), max_size=12)
LIKE_OTHER_TYPES = st.sampled_from(["6e-3", "no", "~", "1", "0x1", "1_0", "null", ".5", "- a", "a: b", "#", "2026-11-29"])


@given(TEXTS | LIKE_OTHER_TYPES)
def test_whole_text_reads_as_the_same_data(description: str):
    texts = [json.dumps(text, ensure_ascii=False) for text in (description, f"{description}.")]
    own = f"name: own\nextends: quickstart.yaml\ndescription: {texts[0]}\ntraining.warmup: 1e-7\nstore: {texts[1]}\n"
    sweep = Sweep.from_text(own)
    assert Sweep.from_text(sweep.text).model_dump() == sweep.model_dump()
