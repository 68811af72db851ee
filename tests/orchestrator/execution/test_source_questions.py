"""A miniature of each question about sources: planned, really trained on a tiny backbone and few rows, and answered in the report."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.reading.files import open_folder
from analysis.reading.load import read_sweep
from analysis.report.page import render_page
from analysis.report.results import Results, gather, write_tables
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from orchestrator.scheduling.pack_key import pack_key
from scalearn.identity import to_plain
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import byte_tokenizer, save_backbone

MINIATURE = """
name: miniature
benchmark: domains
backbone: BACKBONE
data: {train_rows: 24, evaluation_rows: 12, max_length: 16}
sources: {tasks: [airlines, apple, bbc, coachella], settings: {reduction_factor: 4}}
targets: [apple, bbc]
seeds: [0, 1]
training: {epochs: 1, precision: fp32}
methods:
  scalearn_uniform:
    - {}
    - sources: {subsets: {sizes: [1, 2], draws: 2, always: [target]}}
    - sources: {leave_out: 1}
    - sources: {unequal: {rows: 0.25, shuffled: 1}}
    - sources: {select: {by: logme, top: 2}}
    - sources: {select: {by: weights, top: 2}}
  scalearn_fixed:
    sources: {subsets: {sizes: 1, draws: 9}}
    grid: {omega: [[0, 1]]}
"""


def _order(job: Job, graph: Graph) -> MemberOrder:
    parents = dict(zip(job.parent_names, (parent.node for parent in job.parents), strict=True))
    about = {"node": job.node, "stage": graph.stage_of(job.node), "parents": [parent.node for parent in job.parents]}
    return MemberOrder(job.node, job.config, {**about, "config": to_plain(job.config)}, parents)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the miniature, whose jobs were trained in packs, in this process."""
    root = tmp_path_factory.mktemp("miniature")
    backbone = save_backbone(root / "backbone", byte_tokenizer())
    sweep = Sweep.from_text(MINIATURE.replace("BACKBONE", backbone))
    graph, store = sweep.expand(), Store(root / "runs")
    write_manifest(sweep, graph, store, "", None)
    runtime = Runtime(device="cpu", cache=root / "cache")
    while ready := [graph.job(node) for node in graph.ready()]:
        pack = [job for job in ready if pack_key(job) == pack_key(ready[0])][:16]
        orders = tuple(_order(job, graph) for job in pack)
        ending = run_pack(PackOrder(orders, str(store.root), "scalearn.training.loop:train", runtime, root / "stop"))
        assert ending.how == "done"
        for job in pack:
            assert store.complete(job.node), job.node
            graph.mark(job.node, "succeeded")
    return store


@pytest.fixture(scope="session")
def results(miniature: Store) -> Results:
    return gather(read_sweep(miniature.root, "miniature"))


def test_miniature_answers_every_question(results: Results) -> None:
    asked = {question.name: question for question in results.questions}
    assert list(asked) == ["interference", "gains", "foresight", "patterns", "quality"]
    said = {name: " ".join(question.sentences) for name, question in asked.items()}
    assert "from 1 to 4 sources the average changes by" in said["interference"]
    assert "each source alone" in said["gains"]
    assert "each source by leaving it out" in said["gains"]
    assert "**LogME** against the gains of ScaLearn (fixed)" in said["foresight"]
    assert "regret at 1 is" in said["foresight"]
    assert "s, trying" in said["foresight"]
    assert "those trained on shuffled labels" in said["patterns"]
    assert "the mean omega of a whole source is" in said["quality"]


def test_gains_of_the_report_are_those_of_a_few_lines_of_pandas(results: Results, miniature: Store) -> None:
    frame = analysis.load(miniature.root, "miniature")
    test = frame[frame["primary"].fillna(False) & (frame["split"] == "test") & (frame["method"] == "scalearn_uniform")]
    test = test[test["source_quality"].isna() & test["select"].isna() & (test["task"] == "domains/bbc")]
    means = test.groupby("sources")["value"].mean()
    gain = means["airlines,apple,bbc,coachella"] - means["airlines,bbc,coachella"]
    (table,) = (question.table for question in results.questions if question.name == "gains")
    rows = [[cell.text for cell in row.cells] for row in table.rows if "leaving" in row.group]
    (shown,) = (text for target, source, text, *_ in rows if (target, source) == ("BBC", "apple"))
    assert float(shown.replace("−", "-")) == pytest.approx(100 * gain, abs=0.005)


def test_jobs_that_select_name_what_they_stacked_and_stay_one_row(results: Results) -> None:
    jobs = results.frame.drop_duplicates("node")
    chose = jobs[jobs["select"].notna()]
    assert Counter(len(text.split(",")) for text in chose["selected"]) == {2: 8}
    assert set(chose["source_count"]) == {4}
    own = chose[chose["select"].str.contains("weights")]
    assert all(name in selected.split(",") for name, selected in zip(own["task_name"], own["selected"], strict=True))
    titles = [row.title for row in results.table.rows]
    assert sum("select=by=logme" in title for title in titles) == 1


def test_ratings_read_training_rows_alone(miniature: Store) -> None:
    paths = list(miniature.root.rglob("transferability.json"))
    assert len(paths) == 2  # one per target, for all methods, measures and seeds
    for path in paths:
        assert json.loads(path.read_text())["rows"] == 24
        assert json.loads((path.parent / "result.json").read_text())["scores"] == {}


def test_poor_sources_trained_on_fewer_rows(miniature: Store) -> None:
    rows = analysis.load(miniature.root, "miniature").drop_duplicates("node").set_index("node")["rows_train"]
    assert {count for node, count in rows.items() if "kept0.25" in str(node)} == {6}
    assert {count for node, count in rows.items() if "shuffled1" in str(node)} == {24}


def test_page_has_a_section_per_question_with_its_plots_and_no_plot_twice(results: Results, miniature: Store) -> None:
    asked = tuple(plot for question in results.questions for plot in question.plots)
    shown = replace(results, plots=asked)  # the other plots of the page take long to draw, and are tested elsewhere
    light, dark = ({plot.name: plot.render("svg", theme) for plot in asked} for theme in ("light", "dark"))
    page = render_page(shown, open_folder(str(miniature.root)), light, dark)
    for question in results.questions:
        assert page.count(f'<section id="{question.name}">') == 1
    for plot in asked:
        assert page.count(f'id="plot-{plot.name}"') == 1


def test_tables_of_the_questions_are_written_beside_the_page(results: Results, tmp_path: Path) -> None:
    write_tables(results, tmp_path)
    for question in results.questions:
        assert len(pd.read_csv(tmp_path / f"{question.name}.csv")) == len(question.table.rows)


def test_job_that_selected_is_exported_with_the_sources_that_it_stacked(
    results: Results, miniature: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = results.frame.drop_duplicates("node")
    job = jobs[jobs["select"].notna()].iloc[0]
    manifest = str(miniature.root / "sweeps" / "miniature.json")
    assert main(["export", manifest, "--node", str(job["node"]), "--to", str(tmp_path / "folded")]) == 0
    assert f"2 of 2 sources ({job['selected'].replace(',', ', ')})" in capsys.readouterr().out
