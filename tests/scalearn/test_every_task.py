"""Every task through both stages: those that have excerpts from the shipped sweep, the others on rows that the tests write."""

import json
import math
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from orchestrator.graph import Graph
from orchestrator.sweep import Sweep
from scalearn.runtime import PackMember, Runtime
from scalearn.tasks import benchmark_tasks, get_task
from scalearn.training import train
from tests.scalearn.small import save_backbone

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
            result = json.loads((directory / node / "result.json").read_text())
            (task,) = result["scores"]
            metrics = {"loss", *get_task(task).metrics}
            for split, scores in result["scores"][task].items():
                assert metrics <= set(scores), (task, split)
                assert all(math.isfinite(score) for score in scores.values()), (task, split)
            scored.setdefault(graph.stage_of(node), set()).add(task)
    assert graph.is_finished()
    return scored


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
def test_all_tasks_smoke_runs_every_excerpt_through_both_stages(shared: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    root = shared / "benchmarks"
    settings = [*SMALL, f"data.root={root}", f"backbone={save_backbone(tmp_path / 'backbone', tokenizer)}"]
    graph = Sweep.load("all_tasks_smoke", settings).expand()
    targets = {job.config.task for job in graph}
    scored = run_all(graph, root, tmp_path / "runs")
    assert scored["transfer"] == targets
    assert scored["source"] | scored["single"] == targets
