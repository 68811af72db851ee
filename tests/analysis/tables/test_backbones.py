"""Tables of several backbones: a block for each, comparisons within each, and whether methods rank alike."""

from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.plots.backbones import backbone_plot
from analysis.report.questions import questions_of_methods
from analysis.tables import statistics
from analysis.tables.backbones import backbone_grid, backbone_ranks, blocks, sentence
from analysis.tables.grid import layout
from analysis.tables.ladder import ladder
from tests.analysis.helpers.build_store import StoreSpec, build_store

LEVELS = {
    "minilm": {"adapter": 0.5, "scalearn": 0.7, "scalearn_pp": 0.6, "sources_unfrozen": 0.8},
    "mpnet": {"adapter": 0.6, "scalearn": 0.7, "scalearn_pp": 0.8, "sources_unfrozen": 0.9},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> analysis.BenchmarkTable:
    root = tmp_path_factory.mktemp("backbones")
    for backbone, levels in LEVELS.items():
        spec = StoreSpec(
            sweep=backbone,
            backbone=backbone,
            methods=dict.fromkeys(levels, (3e-4,)),
            score=lambda method, task, seed, rate, split, levels=levels: levels[method] + 0.01 * seed,
            omegas=False,
            history=False,
        )
        build_store(root, spec)
    return analysis.benchmark_table(analysis.load(root), targets=["domains/apple", "domains/coachella"])


def test_table_has_a_block_per_backbone_whose_titles_do_not_name_it(table: analysis.BenchmarkTable) -> None:
    grid = layout(table)
    titles = ["Adapter", "ScaLearn", "ScaLearn++", "sources_unfrozen"]
    assert [(row.group.partition(" · ")[0], row.cells[0].text) for row in grid.rows] == [
        (backbone, title) for backbone in ("minilm", "mpnet") for title in titles
    ]
    assert [row.cells[1].rank for row in grid.rows] == [None, 2, None, 1, None, None, 2, 1]
    assert {row.group for row in grid.rows} >= {"minilm · Single task", "mpnet · Two-stage"}
    assert [part.backbones for part in blocks(table)] == [("minilm",), ("mpnet",)]


def test_differences_are_to_the_reference_of_the_same_backbone(table: analysis.BenchmarkTable) -> None:
    found = statistics.differences(table, statistics.default_reference(table))
    average = found[found["target"] == "average"].set_index("first")
    assert average.loc["ScaLearn (backbone=minilm)", "difference"] == pytest.approx(0.2)
    assert average.loc["ScaLearn (backbone=mpnet)", "difference"] == pytest.approx(0.1)
    assert not any("Adapter" in title for title in average.index)


def test_ranks_and_their_correlation_are_those_of_the_scores(table: analysis.BenchmarkTable) -> None:
    found = backbone_ranks(table)
    assert found is not None
    assert found.titles == ("sources_unfrozen", "ScaLearn", "ScaLearn++", "Adapter")
    np.testing.assert_allclose(found.ranks, [[1, 1], [2, 3], [3, 2], [4, 4]])
    assert found.correlation == pytest.approx(0.8)
    told = sentence(found)
    assert "The order of 4 methods agrees between 2 backbones with a mean rank correlation of 0.80" in told
    assert "Best rank on minilm: sources_unfrozen; mpnet: sources_unfrozen." in told
    assert [row.cells[-1].text for row in backbone_grid(found).rows] == ["1.00", "2.50", "2.50", "4.00"]
    assert backbone_plot(found).render("svg").count(b"<svg") == 1


def test_each_backbone_has_its_own_ladder(table: analysis.BenchmarkTable) -> None:
    asked = questions_of_methods(table)
    assert [question.name for question in asked] == ["ladder_minilm", "ladder_mpnet", "backbones"]
    shares = []
    for part in blocks(table):
        found = ladder(part)
        assert found is not None
        shares.append(found.average.set_index("method").loc["scalearn", "share"])
    assert shares == pytest.approx([2 / 3, 1 / 3])


def test_one_backbone_is_no_comparison(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(omegas=False, history=False))
    alone = analysis.benchmark_table(analysis.load(tmp_path, "demo"))
    assert backbone_ranks(alone) is None
    assert blocks(alone) == [alone]
    assert {row.group for row in layout(alone).rows} == {"Single task", "Two-stage"}
