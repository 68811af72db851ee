"""Counts by formula: the published table, and the command that prints it."""

import json
import os
import subprocess
import sys

import pytest

from orchestrator.cli import main
from scalearn.backbone.registry import get_backbone
from scalearn.methods.parameter_counts import all_counts
from scalearn.methods.registry import METHODS

PUBLISHED = {
    "scalearn": 73_728,
    "scalearn_uniform": 96,
    "scalearn_pp": 6_144,
    "scalearn_uniform_pp": 8,
    "adapterfusion": 21_252_096,
    "scalearn_mean": 73_728,
    "scalearn_softmax": 73_728,
    "scalearn_fixed": 0,
    "adapter": 0,
}
OURS = {"scalearn_gated": 73_824, "sources_unfrozen": 7_091_712}
"""Not published: 12 x 8 x 769, and 12 x (2 x 768 x 384 + 384 + 768)."""


def test_counts_on_roberta_base_with_eight_sources_are_the_published_ones() -> None:
    shape = get_backbone("roberta-base").shape
    assert shape is not None
    counts = all_counts(shape, sources=8)
    assert {method: counts[method]["transfer"] for method in PUBLISHED | OURS} == PUBLISHED | OURS
    assert counts["adapter"] == {"transfer": 0, "source": 894_528, "head": 592_130}
    assert counts["scalearn"]["source"] == 8 * 894_528


def test_every_registered_method_has_a_formula() -> None:
    shape = get_backbone("minilm").shape
    assert shape is not None
    assert set(all_counts(shape, sources=3)) == set(METHODS)


def test_params_prints_the_counts_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--backbone", "roberta-base", "--sources", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {method: printed[method]["transfer"] for method in PUBLISHED} == PUBLISHED
    assert set(printed["scalearn"]) == {"transfer", "source", "head"}


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_params_ends_quietly_when_nobody_reads_on(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "orchestrator.cli", "params", "--backbone", "roberta-base", *arguments]
        ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_params_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--backbone", "roberta-base"]) == 0
    printed = capsys.readouterr().out
    assert "21,252,096" in printed
    assert "ScaLearn++" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "roberta-bse"], "roberta-base"),
        (["--backbone", "someone/something"], "registered name"),
        (["--backbone", "minilm", "--sources", "0"], "--sources"),
        (["--backbone", "minilm", "--reduction", "0"], "--reduction"),
        (["--backbone", "minilm", "--reduction", "nan"], "--reduction"),
        (["--backbone", "minilm", "--labels", "-1"], "--labels"),
    ],
)
def test_params_refuses_wrong_input_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_counting_and_naming_load_no_torch() -> None:
    program = (
        "import sys, scalearn, scalearn.methods.parameter_counts, scalearn.methods.registry, scalearn.tasks, scalearn.backbone.registry\n"
        "print([name for name in ('torch', 'transformers', 'adapters', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_library_names_are_those_that_it_says() -> None:
    import scalearn

    assert all(callable(getattr(scalearn, name)) for name in scalearn.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        scalearn.nonsense  # noqa: B018
