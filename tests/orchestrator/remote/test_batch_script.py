"""The batch script of `scalearn submit --slurm`, and what is refused before SLURM is asked."""

import shlex
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.orchestrator.helpers.launch import SWEEP


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a user's, with a sweep, on a machine without SLURM."""
    (tmp_path / "toy.yaml").write_text(SWEEP)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def script(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert main(["submit", "toy.yaml", "--slurm", "--dry-run", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_script_asks_for_what_the_options_say_and_runs_the_sweep(directory, capsys):
    options = ["--nodes", "2", "--gpus-per-node", "4", "--time", "1-0", "--partition", "gpu", "--account", "me", "--requeue"]
    given = ["--set", "targets=[apple, bbc]", "--only", "a|b", "--store", "s3://bucket/my runs"]
    first, *lines, last = script(capsys, *options, *given, "--sbatch=--signal=B:USR1@600", "--sbatch=--mem=64G")
    assert (first, {line.split()[0] for line in lines}) == ("#!/bin/bash", {"#SBATCH"})
    stated = [shlex.split(line)[1] for line in lines]
    assert stated == [
        "--job-name=toy",
        "--comment=scalearn:toy:s3://bucket/my runs",
        f"--chdir={directory}",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--gpus-per-node=4",
        "--time=1-0",
        "--partition=gpu",
        "--account=me",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@600",  # of two equal options sbatch takes the last one
        "--mem=64G",
    ]
    run = ["run", "toy.yaml", "--store", "s3://bucket/my runs", "--set", "targets=[apple, bbc]", "--only", "a|b"]
    python = [sys.executable, "-m"]
    assert shlex.split(last) == ["exec", *python, "orchestrator.remote.allocation", "--requeue", "--", *python, "orchestrator.cli", *run]


def test_script_without_options_leaves_the_rest_to_slurm_and_never_comes_back(directory, capsys):
    lines = script(capsys)
    assert "#SBATCH --nodes=1" in lines
    assert "#SBATCH --cpus-per-task=1" in lines
    assert "#SBATCH --no-requeue" in lines
    assert f"#SBATCH --comment=scalearn:toy:{directory / 'runs'}" in lines
    assert not [line for line in lines if "gpus" in line or "time" in line or "partition" in line]
    assert " --requeue " not in lines[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--slurm"], "--slurm needs the program sbatch, and it is not on the PATH"),
        (["--slurm", "--address", "http://head:8265"], "--address has no meaning with --slurm"),
        (["--slurm", "--working-dir", "bin"], "--working-dir has no meaning with --slurm"),
        (["--slurm", "--requeue", "--force"], "--force and --requeue do not go together"),
        (["--store", "/s", "--gpus-per-node", "2"], "--gpus-per-node has no meaning without --slurm"),
        (["--slurm", "--nodes", "0"], "Argument --nodes: give at least 1"),
        (["--slurm", "--set", "benchmrk=glue"], "benchmark"),
    ],
)
def test_submit_to_slurm_refuses_in_one_sentence(directory, capsys, options, sentence):
    assert main(["submit", "toy.yaml", *options]) == 2
    output = capsys.readouterr()
    assert sentence in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
