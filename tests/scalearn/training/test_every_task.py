"""Every task through both stages: those that have excerpts from the shipped sweep, the others on rows that the tests write."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from scalearn.tasks import benchmark_tasks, get_task
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import save_backbone

SMALL = ("data.train_rows=16", "data.evaluation_rows=8", "data.max_length=48", "training.epochs=1", "training.precision=fp32")
WRITTEN = """\
name: written
benchmark: {benchmark}
backbone: minilm
sources: {{tasks: [{tasks}]}}
targets: [{tasks}]
methods: {{adapter: {{}}, adapterfusion: {{}}, scalearn: {{}}}}
"""


def run_all(graph: Graph, root: Path, directory: Path) -> dict[str, set[str]]:
    """Train every job in this process; returns the tasks that each stage scored, all scores being numbers."""
    scored: dict[str, set[str]] = {}
    while graph.ready():
        for node in graph.ready():
            job = graph.job(node)
            (directory / node).mkdir(parents=True)
            parents = {parent.source_name: directory / parent.node for parent in job.parents}
            runtime = Runtime(data_root=root, cache=directory / ".cache", device="cpu")
            (outcome,) = train([PackMember(job.config, directory / node, parents)], runtime, lambda *_: None)
            assert outcome.error is None, outcome.traceback
            graph.mark(node, "succeeded")
            scored.setdefault(graph.stage_of(node), set()).add(scored_task(directory / node))
    assert graph.is_finished()
    return scored


def scored_task(directory: Path) -> str:
    """The task that a job scored; every metric of it has to be a number, on every split."""
    result = json.loads((directory / "result.json").read_text())
    (task,) = result["scores"]
    for split, scores in result["scores"][task].items():
        assert {"loss", *get_task(task).metrics} <= set(scores), (task, split)
        assert all(math.isfinite(score) for score in scores.values()), (task, split)
    return str(task)


@pytest.mark.parametrize(
    ("benchmark", "tasks"), [("glue", ("glue/stsb",)), ("super_glue", ("super_glue/wsc",)), ("humset", benchmark_tasks("humset"))]
)
def test_tasks_without_excerpts_run_through_both_stages(
    benchmark: str, tasks: tuple[str, ...], written: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = [*SMALL, f"data.root={written}", f"backbone={save_backbone(tmp_path / 'backbone', tokenizer)}"]
    sweep = Sweep.from_text(WRITTEN.format(benchmark=benchmark, tasks=", ".join(tasks)), overrides=settings)
    assert run_all(sweep.expand(), written, tmp_path / "runs") == {"source": set(tasks), "transfer": set(tasks)}


@pytest.mark.slow
def test_all_tasks_smoke_runs_every_excerpt_through_both_stages_on_ray_with_minilm(shared: Path, tmp_path: Path) -> None:
    root = f"data.root={shared / 'benchmarks'}"
    command = [sys.executable, "-m", "orchestrator.cli", "run", "all_tasks_smoke", "--set", root]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1000)
    assert run.returncode == 0, run.stdout + run.stderr
    graph = Sweep.load("all_tasks_smoke", [root]).expand()
    scored: dict[str, set[str]] = {}
    for job in graph:
        assert (tmp_path / "runs" / job.node / "SUCCESS.json").is_file()
        scored.setdefault(graph.stage_of(job.node), set()).add(scored_task(tmp_path / "runs" / job.node))
    targets = {job.config.task for job in graph}
    assert scored["transfer"] == targets
    assert scored["source"] | scored["single"] == targets
    assert len(targets) == 15
