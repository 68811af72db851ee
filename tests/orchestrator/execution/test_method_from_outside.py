"""A method from another package, added by CONTRIBUTING's recipe and run through a sweep."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

import analysis
from scalearn.errors import UserError
from scalearn.methods.registry import get_method, register_method

SWEEP = """
name: outside
benchmark: domains
backbone: minilm
data: {train_rows: 24, evaluation_rows: 12, max_length: 16}
sources: {tasks: [apple, coachella]}
targets: [apple]
training: {epochs: 2}
methods: {one_scale: {}, scalearn: {}, adapterfusion: {}}
"""
TITLE = "One scale for all sources"
METHODS = ("scalearn", "one_scale", "adapterfusion")


@pytest.fixture
def package(repository: Path, tmp_path: Path) -> Path:
    """What `pip install` leaves of the package that CONTRIBUTING describes."""
    recipe = (repository / "CONTRIBUTING.md").read_text().partition("## Adding a method")[2].partition("\n## ")[0]
    method, branch = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    (group, entry) = re.findall(r'```toml\n\[project.entry-points."(.*?)"\]\n(.*?)\n```', recipe)[0]
    method = method.replace("order=290", "order=215")  # between two methods of the registry
    code = [line for line in (method + branch).splitlines() if line.strip()]
    assert len(code) < 40
    (tmp_path / "site" / "one_scale").mkdir(parents=True)
    (tmp_path / "site" / "one_scale" / "__init__.py").write_text(method)
    (tmp_path / "site" / "one_scale" / "branch.py").write_text(branch)
    (tmp_path / "site" / "one_scale-1.0.dist-info").mkdir()
    (tmp_path / "site" / "one_scale-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: one_scale\nVersion: 1.0\n")
    (tmp_path / "site" / "one_scale-1.0.dist-info" / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    return tmp_path / "site"


def scalearn(*arguments: str, site: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    places = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_method_announced_by_an_entry_point_runs_through_a_sweep(package: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text(SWEEP)
    run = scalearn("run", "outside.yaml", site=package, directory=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (result,) = (tmp_path / "runs").rglob("transfer/one_scale/apple/*/result.json")
    assert json.loads(result.read_text())["parameters"]["transfer"] == 1
    store = tmp_path / "runs"
    told = json.loads(result.with_name("job.json").read_text())["names"]["methods"]
    assert told == {"one_scale": {"title": TITLE, "family": "two_stage", "order": 215}}
    order = ["AdapterFusion", TITLE, "ScaLearn"]
    assert titles_in(run.stdout, order) == order
    for place in (store, f"sqlite:///{store / 'mlflow.db'}"):
        for sweep in ("outside", None):
            assert [row.title for row in analysis.benchmark_table(analysis.load(place, sweep), methods=METHODS).rows] == order
    report = scalearn("report", "outside.yaml", site=package, directory=tmp_path)
    assert titles_in(report.stdout, order) == order
    assert TITLE in (store / "reports" / "outside" / "index.html").read_text()
    curves = (store / "reports" / "outside" / "plots" / "curves_loss.svg").read_text()
    assert titles_in(curves, [f"<!-- {title} -->" for title in order]) == [f"<!-- {title} -->" for title in order]
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (job,) = client.search_runs([client.get_experiment_by_name("outside").experiment_id], "tags.method = 'one_scale'")
    assert f"Transfer layer: {TITLE} on Apple" in job.data.tags["mlflow.note.content"]
    counted = scalearn("params", "--backbone", "minilm", site=package, directory=tmp_path)
    assert titles_in(counted.stdout, order) == order


def titles_in(text: str, titles: list[str]) -> list[str]:
    """Those titles that a text holds, in the order in which it names them first."""
    return sorted((title for title in titles if title in text), key=text.index)


def test_plugin_that_cannot_be_loaded_is_named_when_its_key_is_looked_for(package: Path, tmp_path: Path) -> None:
    (package / "one_scale" / "__init__.py").write_text("raise RuntimeError('needs a library')")
    (tmp_path / "outside.yaml").write_text(SWEEP)
    plan = scalearn("plan", "outside.yaml", site=package, directory=tmp_path)
    assert plan.returncode == 2
    assert "one_scale:METHOD could not be loaded (RuntimeError: needs a library)" in " ".join(plan.stderr.split())


def test_second_method_of_a_key_is_refused() -> None:
    adapter = get_method("adapter")
    assert register_method(adapter) is adapter
    with pytest.raises(UserError, match="'adapter' already"):
        register_method(replace(adapter, title="Another"))
