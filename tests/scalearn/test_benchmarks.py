import subprocess
import sys
from pathlib import Path

import pytest

SMALL = {
    "layer.py": ["--sources", "2", "3", "--hidden", "64", "--width", "8", "--rows", "2", "--length", "8", "--rounds", "2"],
    "step.py": ["--sources", "2", "--layers", "2", "--hidden", "64", "--rows", "2", "--length", "8", "--rounds", "2"],
}
ROWS = {
    "layer.py": ["2", "3"],
    "step.py": ["ScaLearn", "single adapter", "bare backbone", "plain formula", "single adapter, library's step"],
}


@pytest.mark.parametrize("script", SMALL)
def test_benchmark_of_the_method_prints_its_table(script: str, repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / script), *SMALL[script]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    title, header, _, *rows = done.stdout.splitlines()
    assert "CPU" in title
    assert [row.split("|")[1].strip() for row in rows] == ROWS[script]
    assert {row.count("|") for row in rows} == {header.count("|")}
