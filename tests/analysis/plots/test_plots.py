import itertools
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

import analysis
from analysis import plots
from analysis.plots.scores import curve_points, probing_scores
from analysis.reading import history
from analysis.tables import omega, statistics
from tests.analysis.helpers.build_store import StoreSpec, build_store


def all_plots(root: Path) -> list[plots.Plot]:
    frame = analysis.load(root, "demo")
    table = analysis.benchmark_table(frame)
    nodes = [node for row in table.rows for cell in row.cells for node in cell.nodes]
    omegas = omega.load_omegas(root, "demo", nodes)
    curves = history.load_history(root, "demo")
    found = [
        plots.efficiency(table),
        plots.critical_difference(statistics.ranks(table)),
        plots.score_against(frame, "learning_rate"),
        plots.learning_curves(curves, nodes, "accuracy", table.targets),
        plots.gantt(history.load_spans(root, "demo")),
        *plots.omega_heat_maps(omegas),
        *plots.omega_layer_maps(omegas),
    ]
    return [plot for plot in found if plot is not None]


def test_plots_of_a_complete_sweep_are_png_and_well_formed_svg(complete_store: Path, tmp_path: Path) -> None:
    found = all_plots(complete_store)
    assert [plot.name for plot in found] == [
        *("efficiency", "critical_difference", "score_against_learning_rate", "curves_accuracy", "gantt"),
        *("omega_scalearn", "omega_scalearn_uniform", "omega_scalearn_pp", "omega_scalearn_uniform_pp"),
        *("omega_layers_scalearn", "omega_layers_scalearn_uniform"),
    ]
    for plot in found[:5]:
        svg = plot.save(tmp_path)
        assert (tmp_path / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{plot.name}.svg").read_bytes() == svg
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert plot.caption


def test_plot_themes_differ_and_each_is_reproducible(complete_store: Path) -> None:
    plot = plots.efficiency(analysis.benchmark_table(analysis.load(complete_store, "demo")))
    assert plot is not None
    light, dark = plot.render(theme="light"), plot.render(theme="dark")
    assert light != dark
    assert light == plot.render(theme="light")


def test_omega_maps_show_what_was_learned_against_the_start(complete_store: Path) -> None:
    omegas = omega.load_omegas(complete_store, "demo")
    (plot,) = [each for each in plots.omega_heat_maps(omegas) if each.name == "omega_scalearn_pp"]
    assert "minus its start, 0.667." in plot.caption
    (axes,) = plot.draw().axes
    texts = [text.get_text() for text in axes.texts]
    assert [text[0] for text in texts] == list("−+−−−+")
    # Three sources start at 2 / 3. The target's own ends at 1, the first at 0.5, the others at 0.1, all with noise of 0.01.
    assert [float(text.replace("−", "-")) for text in texts] == pytest.approx([-0.17, 0.33, -0.57, -0.17, -0.57, 0.33], abs=0.03)
    mesh = axes.collections[0]
    assert mesh.norm.vmin == -mesh.norm.vmax
    still = [replace(each, values=each.values * 0 + 2 / 3 + 0.001) for each in omegas if each.method == "scalearn_pp"]
    (pale,) = plots.omega_heat_maps(still)[0].draw().axes
    red, green, blue, _ = pale.collections[0].to_rgba(0.001)
    assert min(red, green, blue) > 0.9


def test_plots_without_data_are_none(tmp_path: Path) -> None:
    build_store(
        tmp_path, StoreSpec(states={"source/adapter/airlines": "failed", "lr3e-04-seed1": "pending"}, methods={"scalearn": (6e-3,)})
    )
    frame = analysis.load(tmp_path, "demo")
    table = analysis.benchmark_table(frame)
    assert plots.efficiency(table) is None
    assert plots.score_against(frame, "few_shot") is None
    assert plots.critical_difference(statistics.ranks(table)) is None
    assert plots.probing_grid(frame) is None
    assert plots.gantt([]) is None


def test_few_shot_points_choose_the_learning_rate_at_each_number_of_rows(tmp_path: Path) -> None:
    frames = []
    for rows, better in ((4, 6e-3), (16, 2e-2)):

        def score(method: str, task: str, seed: int, rate: float, split: str, better: float = better) -> float:
            return 0.6 + 0.1 * (rate == better) + 0.05 * seed

        spec = StoreSpec(methods={"scalearn": (6e-3, 2e-2)}, data={"few_shot": rows}, score=score)
        build_store(tmp_path / str(rows), spec)
        frames.append(analysis.load(tmp_path / str(rows), "demo"))
    frame = pd.concat(frames)
    points = curve_points(frame[frame["stage"] == "transfer"], "few_shot")
    apple = points[points["task"] == "domains/apple"].set_index("x")
    assert apple["chosen"].to_dict() == {4: 6e-3, 16: 2e-2}
    assert apple["mean"].tolist() == pytest.approx([0.725, 0.725])
    assert apple["n"].tolist() == [2, 2]
    assert plots.score_against(frame, "few_shot") is not None


def test_score_against_sources_draws_one_line_per_variant(tmp_path: Path) -> None:
    frames = []
    for tasks, dropout in itertools.product((("apple", "airlines"), ("apple", "airlines", "coachella")), (0.0, 0.3)):
        spec = StoreSpec(tasks=tasks, targets=("apple",), methods={"scalearn": (6e-3,)}, settings={"scalearn": {"omega_dropout": dropout}})
        root = tmp_path / f"{len(tasks)}-{dropout}"
        build_store(root, spec)
        frames.append(analysis.load(root, "demo"))
    frame = pd.concat(frames)
    points = curve_points(frame[frame["stage"] == "transfer"], "source_count")
    assert sorted(set(points["variant"])) == ["omega_dropout=0", "omega_dropout=0.3"]
    assert points.groupby("variant")["x"].apply(list).to_dict() == {"omega_dropout=0": [2, 3], "omega_dropout=0.3": [2, 3]}


def test_score_against_sources_keeps_stacks_with_and_without_the_targets_own_apart(tmp_path: Path) -> None:
    frames = []
    stacks = (("apple", "airlines"), ("bbc", "airlines"), ("apple", "airlines", "bbc"), ("bbc", "airlines", "coachella"))
    for number, tasks in enumerate(stacks):
        build_store(tmp_path / str(number), StoreSpec(tasks=tasks, targets=("apple",), methods={"scalearn": (6e-3,)}))
        frames.append(analysis.load(tmp_path / str(number), "demo"))
    frame = pd.concat(frames)
    points = curve_points(frame[frame["stage"] == "transfer"], "source_count")
    lines = points.groupby("variant")["x"].apply(list).to_dict()
    assert lines == {"sources=with the target's own": [2, 3], "sources=without the target's own": [2, 3]}


def test_probing_scores_are_laid_out_by_both_omegas() -> None:
    grid = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)
    common = {"task": "glue/rte", "method": "scalearn_fixed", "sources": "rte,mnli", "source_count": 2, "split": "test", "primary": True}
    rows = [
        common | {"node": f"{one}-{two}-{seed}", "setting_omega": f"{one},{two}", "value": 0.5 + 0.3 * one + 0.1 * two + 0.02 * seed}
        for one, two, seed in itertools.product(grid, grid, (0, 1))
    ]
    frame = pd.DataFrame(rows)
    (scores,) = probing_scores(frame).values()
    assert scores.shape == (7, 7)
    assert scores.loc[0.9, 0.1] == pytest.approx(0.5 + 0.27 + 0.01 + 0.01)
    plot = plots.probing_grid(frame)
    assert plot is not None
    assert plot.render("png").startswith(b"\x89PNG")


def test_gantt_marks_failed_jobs(broken_store: Path) -> None:
    spans = history.load_spans(broken_store, "demo")
    assert "failed" in {span.state for span in spans}
    whole, without = plots.gantt(spans), plots.gantt([replace(span, state="succeeded") for span in spans])
    assert whole is not None
    assert without is not None
    assert b"#d00000" in whole.render()
    assert b"#d00000" not in without.render()
