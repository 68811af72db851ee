import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel
from tests.orchestrator.helpers.doubles import source, transfer

SMALL = {
    "layer.py": ["--sources", "2", "3", "--hidden", "64", "--width", "8", "--rows", "2", "--length", "8", "--rounds", "2"],
    "step.py": ["--sources", "2", "--size", "tiny", "--tasks", "sst2", "--rows", "2", "--rounds", "2", "--warm-up", "1"],
}
ROWS = {
    "layer.py": ["2", "3"],
    "step.py": ["library's loop", "single adapter", "single adapter, padded", "ScaLearn", "plain formula", "bare products"],
}
PATHS = {"layer.py": 1, "step.py": 4}
"""The column that names what was timed."""


@pytest.mark.parametrize("script", SMALL)
def test_benchmark_of_the_method_prints_its_table(script: str, repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / script), *SMALL[script]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    title, header, _, *rows = done.stdout.splitlines()
    assert "CPU" in title
    assert [row.split("|")[PATHS[script]].strip() for row in rows] == ROWS[script]
    assert {row.count("|") for row in rows} == {header.count("|")}


BARE = ("adapters", "datasets", "pandas", "torch", "transformers")
"""What `gpu.py` may use."""

HIDING = """
import sys
from importlib.machinery import PathFinder


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


def modules_of_others(packages: tuple[str, ...]) -> set[str]:
    """Return the installed modules that neither these packages nor what they depend on bring."""
    needed: set[str] = set()
    left = list(packages)
    while left:
        name = canonicalize_name(left.pop())
        if name not in needed:
            needed.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            left += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    brought = metadata.packages_distributions()
    return {module for module, owners in brought.items() if not needed & {canonicalize_name(owner) for owner in owners}}


def sections(report: str) -> dict[str, list[list[str]]]:
    """Return the cells of each section's table rows, headers left out."""
    found = {}
    for section in report.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        tables = [line.strip("|").split("|") for line in lines if line.startswith("|")]
        rules = [number for number, cells in enumerate(tables) if set("".join(cells)) == {"-"}]
        found[title] = [cells for number, cells in enumerate(tables) if not {number, number + 1} & set(rules)]
        assert {len(tables[rule - 1]) for rule in rules} == {len(cells) for cells in tables}, title
    return found


@pytest.mark.slow
def test_gpu_benchmark_on_a_bare_machine_writes_every_section_and_a_profile_that_plans(repository: Path, tmp_path: Path) -> None:
    hidden = modules_of_others(BARE) - {"analysis", "orchestrator", "scalearn", "sweeps"}
    assert hidden >= {"accelerate", "annotated_types", "mlflow", "pydantic", "ray", "scipy", "sklearn"}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
    command = [sys.executable, str(repository / "benchmarks/gpu.py"), "--device", "cpu", "--tiny", "--out", str(tmp_path / "report.md")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "bare")}, timeout=600, check=False)
    assert done.returncode == 0
    found = sections((tmp_path / "report.md").read_text())
    assert {title: len(rows) for title, rows in found.items()} == {
        "Equality of packed and alone": 3,
        "One transfer layer": 1,
        "A training step": 16,
        "The profile": 6,
        "Packs of scalearn jobs": 3,
        "Processes of scalearn jobs": 1,
    }
    assert all(float(cells[-1]) <= 1e-4 for cells in found["Equality of packed and alone"])
    assert "Left out" not in (tmp_path / "report.md").read_text()
    cost = CostModel(load_profile(str(tmp_path / "report.json")))
    assert all(cost.estimate(job).seconds > 0 for job in (source("apple"), transfer("apple", [source("airlines")])))
