"""A miniature of the shipped ladder: every rung is trained on a few rows, and the report tells what each wins."""

from pathlib import Path

import pytest

from analysis.report.report import read_summary, write_report
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from tests.scalearn.helpers.graphs import train_graph
from tests.scalearn.helpers.small import byte_tokenizer, save_backbone

FEW = (
    "benchmark=domains",
    "targets=[apple]",
    "seeds=[0, 1]",
    "sources.tasks=[apple, coachella]",
    "data={train_rows: 16, evaluation_rows: 12, max_length: 16}",
    "training.epochs=1",
    "methods.scalearn_fixed.settings.omega=[1.0, 1.0]",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ladder")
    backbone = save_backbone(root / "backbone", byte_tokenizer())
    sweep, store = Sweep.load("ladder", (f"backbone={backbone}", *FEW)), Store(root / "runs")
    graph = sweep.expand()
    store.root.mkdir()
    write_manifest(sweep, graph, store, "", None)
    train_graph(graph, store)
    return store.root


def test_report_of_the_ladder_has_its_section_table_and_plot(ran: Path, tmp_path: Path) -> None:
    page = write_report(ran, "ladder", tmp_path / "report").read_text(encoding="utf-8")
    assert '<section id="ladder"' in page
    assert "The ladder.</strong> On 1 target, Adapter has" in page
    rungs = (tmp_path / "report/tables/ladder.csv").read_text(encoding="utf-8").splitlines()
    assert [title in "\n".join(rungs) for title in ("ScaLearn (gated)", "Sources unfrozen", "Full fine-tuning", "ScaLearnUniform++")]
    assert len(rungs) == 1 + 10
    assert (tmp_path / "report/plots/ladder.svg").exists()
    assert "omega_scalearn_gated" in page, "the gates are not drawn"
    assert read_summary(tmp_path / "report")["metrics"]
