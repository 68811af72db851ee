"""Every method of the registry through Ray from the shipped sweep, on very few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scalearn.methods.registry import METHODS

FEW = (
    "data.train_rows=24",
    "data.evaluation_rows=12",
    "data.max_length=16",
    "sources.tasks=[apple, coachella]",
    "training.source.epochs=1",
    "training.single.epochs=1",
    "training.transfer.epochs=1",
    "training.joint.epochs=1",
    "training.tasks={}",
)


def scalearn(command: str, directory: Path) -> str:
    arguments = [part for setting in FEW for part in ("--set", setting)]
    run = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", command, "quickstart_all", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.slow
def test_every_method_runs_from_the_shipped_sweep_and_is_done_for_good(tmp_path: Path) -> None:
    scalearn("run", tmp_path)
    results = {path.relative_to(tmp_path / "runs").parts[3]: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    assert set(results) == {*METHODS, "sentence_similarity"}
    for method, result in results.items():
        joint = METHODS[method].family == "joint" if method in METHODS else None
        assert len(result["scores"]) == {True: 2, False: 1, None: 0}[joint], method
    assert len(list(tmp_path.rglob("similarity.csv"))) == 1
    again = scalearn("run", tmp_path)
    assert ", 0 to run" in again.partition("Store:")[0]
