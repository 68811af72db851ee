"""The ladder against a few lines of pandas and a simulation, what it says of too little, and what shows it."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.plots.ladder import ladder_plot
from analysis.tables.ladder import fieller, ladder, ladder_grid, sentence
from tests.analysis.helpers.build_store import StoreSpec, build_store

METHODS = ("adapter", "scalearn_fixed", "scalearn_uniform_pp", "scalearn", "sources_unfrozen")
LEVELS = {"adapter": 0.6, "scalearn_fixed": 0.58, "scalearn_uniform_pp": 0.65, "scalearn": 0.68, "sources_unfrozen": 0.7}


def steady(method: str, task: str, seed: int, rate: float, split: str) -> float:
    """Ten points from foot to ceiling on both targets, and seeds that move all methods almost alike."""
    return LEVELS[method] + 0.02 * seed + (0.1 if task.endswith("apple") else 0.0) + 0.001 * ((len(method) + seed) % 3)


def noisy(method: str, task: str, seed: int, rate: float, split: str) -> float:
    """The ceiling is 10, 0 and -5 points above the foot."""
    return 0.6 + (0.1 - 0.1 * seed + 0.025 * seed * (seed - 1) if method == "sources_unfrozen" else 0.0)


def upside_down(method: str, task: str, seed: int, rate: float, split: str) -> float:
    return 1.2 - steady(method, task, seed, rate, split)


def table_of(root: Path, score: object = steady, seeds: tuple[int, ...] = (0, 1, 2), **spec: object) -> analysis.BenchmarkTable:
    methods = spec.pop("methods", dict.fromkeys(METHODS, (3e-4,)))
    build_store(root, StoreSpec(methods=methods, score=score, seeds=seeds, omegas=False, history=False, **spec))  # type: ignore[arg-type]
    return analysis.benchmark_table(analysis.load(root, "demo"))


def test_shares_are_those_of_a_few_lines_of_pandas(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    found = ladder(table)
    assert found is not None
    frame = analysis.load(tmp_path, "demo")
    tested = frame[(frame["split"] == "test") & frame["primary"] & frame["task"].isin(table.targets)].drop_duplicates(
        ["method", "task", "seed"]
    )
    tested = tested.drop_duplicates(["method", "task", "seed"])
    means = tested.groupby("method")["value"].mean()
    share = (means - means["adapter"]) / (means["sources_unfrozen"] - means["adapter"])
    average = found.average.set_index("method")
    for method in METHODS:
        assert average.loc[method, "share"] == pytest.approx(share[method])
        assert average.loc[method, "score"] == pytest.approx(means[method])
        assert average.loc[method, "low"] <= share[method] + 1e-9
        assert average.loc[method, "high"] >= share[method] - 1e-9
    assert average.loc["scalearn", "high"] - average.loc["scalearn", "low"] < 0.1
    assert list(average["parameters"]) == sorted(average["parameters"])


def test_interval_holds_the_ratio_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(2000):
        shared = rng.normal(0, 0.5, 4)
        whole, gains = 4 + shared + rng.normal(0, 0.5, 4), 3 + shared + rng.normal(0, 0.5, 4)
        interval = fieller(gains, whole)
        held.append(interval is None or interval[0] <= 0.75 <= interval[1])
    assert fmean(held) == pytest.approx(0.95, abs=0.015)


def test_interval_is_unbounded_where_the_whole_may_be_zero() -> None:
    assert fieller(np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5])) is None
    assert fieller(np.array([1.0]), np.array([2.0])) is None
    assert fieller(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == pytest.approx((0.5, 0.5))


def test_sentence_has_the_numbers_and_says_when_there_is_too_little(tmp_path: Path) -> None:
    table = table_of(tmp_path / "steady")
    found = ladder(table)
    assert found is not None
    told, average = sentence(found), found.average.set_index("method")
    assert f"ScaLearn wins {100 * average.loc['scalearn', 'share']:.0f}% (95% interval " in told
    assert "ScaLearn (fixed) wins −" in told
    assert "with none but the head's parameters" in told
    assert "On 2 targets, Adapter has" in told
    assert "over 3 seeds" in told
    little = ladder(table_of(tmp_path / "noisy", noisy))
    assert little is not None
    assert "too little to tell" in sentence(little)
    assert little.average["share"].isna().all()
    none = ladder(table_of(tmp_path / "none", upside_down))
    assert none is not None
    assert "there is no gap of which a method could win a share" in sentence(none)
    one = ladder(table_of(tmp_path / "one", seeds=(0,)))
    assert one is not None
    assert "1 seed does not tell this gap" in sentence(one)


def test_rung_without_a_score_has_no_share(tmp_path: Path) -> None:
    found = ladder(table_of(tmp_path, states={"scalearn/apple": "failed"}))
    assert found is not None
    average = found.average.set_index("method")
    assert pd.isna(average.loc["scalearn", "share"])
    assert pd.isna(average.loc["scalearn", "score"])
    assert average.loc["scalearn_uniform_pp", "share"] == pytest.approx(0.5, abs=0.05)


def test_sweep_without_foot_or_ceiling_has_no_ladder(tmp_path: Path) -> None:
    for missing in ("adapter", "sources_unfrozen"):
        methods = {method: (3e-4,) for method in METHODS if method != missing}
        assert ladder(table_of(tmp_path / missing, methods=methods)) is None


def test_table_and_plot_show_each_rung(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    found = ladder(table)
    assert found is not None
    grid, plot = ladder_grid(found, table), ladder_plot(found, table)
    assert [row.cells[0].text for row in grid.rows] == list(found.average["title"])
    assert grid.header[-2:] == table.target_titles
    assert plot is not None
    picture = plot.render("svg", "dark").decode()
    assert picture.count("<svg") == 1
