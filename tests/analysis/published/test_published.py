import csv
from pathlib import Path

import pytest

import analysis
from analysis.published import published_scores, published_table
from analysis.tables.grid import layout
from analysis.tables.render import to_markdown, to_terminal
from tests.analysis.helpers.build_store import StoreSpec, build_store


def test_published_equals_the_reference_figures_cell_by_cell(shared: Path) -> None:
    with (shared / "paper" / "reference_results.csv").open() as file:
        reference = {(row["benchmark"], row["backbone"], row["method"], row["task"]): float(row["score"]) for row in csv.DictReader(file)}
    table = published_table().rename(columns={"average": "avg"}).set_index(["benchmark", "backbone", "method"])
    shipped = {(*keys, task): score for keys, row in table.iterrows() for task, score in row.dropna().items()}
    assert shipped == reference


def test_published_averages_are_the_means_of_their_rows() -> None:
    for benchmark in ("glue", "super_glue", "humset"):
        for method, scores in published_scores(benchmark).scores.items():
            tasks = [score for task, score in scores.items() if task != "average"]
            # Published averages are of unrounded scores, and one of them (SuperGLUE, ProPETL) is 0.03 points off its row's mean.
            assert sum(tasks) / len(tasks) == pytest.approx(scores["average"], abs=4e-4), (benchmark, method)


def test_table_against_paper_shows_published_score_and_difference(tmp_path: Path) -> None:
    tasks = ("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola")
    spec = StoreSpec(
        benchmark="glue",
        backbone="roberta-base",
        tasks=tasks,
        targets=tasks,
        methods={"adapter": (3e-4,)},
        score=lambda method, task, seed, rate, split: 0.87,
        omegas=False,
        history=False,
    )
    build_store(tmp_path, spec)
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="demo"))
    (line,) = [line for line in to_markdown(layout(table, against=published_scores("glue"))).splitlines() if line.startswith("| Adapter")]
    assert "paper 86.50, +0.50" in line
    assert "paper 90.18, −3.18" in line
    assert "paper 83.83, +3.17" in line
    assert "no replication" not in to_markdown(layout(table, against=published_scores("glue")))


def test_table_against_paper_with_another_backbone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_store(tmp_path, StoreSpec(benchmark="glue", tasks=("rte", "mrpc"), targets=("rte", "mrpc")))
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="demo"))
    grid = layout(table, against=published_scores(table.benchmark))
    assert "with minilm: the difference is no replication" in to_markdown(grid)
    # Two of eight tasks: their average has no published counterpart.
    (line,) = [line for line in to_markdown(grid).splitlines() if line.startswith("| ScaLearn |")]
    assert line.count("paper ") == 2
    to_terminal(grid)
    assert f"paper {100 * published_scores('glue').scores['scalearn']['rte']:.2f}" in capsys.readouterr().out


def test_published_benchmark_unknown_is_refused() -> None:
    with pytest.raises(analysis.ResultsError, match="no scores for benchmark domains"):
        published_scores("domains")
