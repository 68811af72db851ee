"""What a method chooses by validation beside the learning rate: one row, the best candidate, and no test score in the choice."""

from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.reading.frame import build_frame
from analysis.reading.records import Record
from analysis.reading.selection import mark_chosen
from analysis.tables.grids import learning_rate_grid

NAMES = {
    "methods": {
        "ties": {"title": "TIES", "family": "two_stage", "order": 214, "tuned": ["density", "weight"]},
        "best_source": {"title": "Best source", "family": "two_stage", "order": 212, "tuned": ["sources"]},
        "scalearn": {"title": "ScaLearn", "family": "two_stage", "order": 220},
    },
    "tasks": {"domains/apple": {"title": "Apple", "order": 1, "metric": "accuracy"}},
}


def job(method: str, seed: int, validation: float | None, test: float, sources: list[str], rate: float = 3e-4, **settings: Any) -> Record:
    config = {
        "benchmark": "domains",
        "stage": "transfer",
        "method": method,
        "data": [{"task": "domains/apple"}],
        "backbone": "minilm",
        "optimisation": {"learning_rate": rate},
        "seed": seed,
        "sources": sources,
        "settings": settings,
    }
    scores = {"domains/apple": {"validation": {"accuracy": validation}, "test": {"accuracy": test}}}
    done = {"scores": scores, "primary_metric": {"domains/apple": "accuracy"}, "parameters": {"transfer": 0}}
    node = f"domains/minilm/transfer/{method}/apple/{'-'.join(sources)}-{settings}-lr{rate}-seed{seed}"
    ended = "failed" if validation is None else "succeeded"
    return Record(node, ended, stage="transfer", config=config, result={} if validation is None else done, names=NAMES)


@pytest.fixture
def frame() -> pd.DataFrame:
    records = []
    for seed in (0, 1):
        for source, validation, test in (("apple", 0.70, 0.99), ("bbc", 0.80, 0.60), ("coachella", 0.75, 0.98)):
            records.append(job("best_source", seed, validation + 0.01 * seed, test, [source]))
        for density, weight, validation in ((0.2, 1.0, 0.6), (0.5, 1.0, 0.7), (0.2, 0.5, 0.7)):
            records.append(job("ties", seed, validation, 0.5 + density / 10, ["apple", "bbc"], density=density, weight=weight))
        records.append(job("scalearn", seed, 0.7, 0.7, ["apple", "bbc"], omega_dropout=0.3))
    return mark_chosen(build_frame(records))


def test_each_method_is_one_row_with_the_candidate_of_the_best_validation_score(frame: pd.DataFrame) -> None:
    rows = {row.title: row for row in analysis.benchmark_table(frame).rows}
    assert list(rows) == ["Best source", "TIES", "ScaLearn"]
    best, ties, plain = (row.cells[0] for row in rows.values())
    assert (best.tuned, best.tried, best.scores) == ("sources=bbc", 3, ((0, 0.6), (1, 0.6)))
    assert (ties.tuned, ties.tried) == ("density=0.2, weight=0.5", 3), "the first of two that are equal"
    assert (plain.tuned, plain.tried) == ("", 1)


def test_frame_and_notes_say_what_was_chosen(frame: pd.DataFrame) -> None:
    assert set(frame.loc[frame["chosen"], "tuned"].dropna()) == {"sources=bbc", "density=0.2, weight=0.5"}
    assert frame.loc[frame["method"] == "scalearn", "tuned"].isna().all()
    table = analysis.benchmark_table(frame)
    notes = " ".join(table.notes)
    assert "Chosen and counted likewise: the source or the settings of Best source, TIES." in notes
    assert "learning rates and settings tried 3 (Best source, TIES), 1 (all others)" in notes or "1 (ScaLearn), 3 (all others)" in notes
    grid = learning_rate_grid(table)
    assert grid is not None
    assert "sources=bbc; validation 80.5" in grid.rows[0].cells[1].extra


def test_candidate_whose_seed_crashed_is_set_aside_and_named() -> None:
    records = [job("best_source", seed, 0.7, 0.7, ["apple"]) for seed in (0, 1)]
    records += [job("best_source", 0, 0.9, 0.9, ["bbc"]), job("best_source", 1, None, 0.0, ["bbc"])]
    (row,) = analysis.benchmark_table(mark_chosen(build_frame(records))).rows
    assert (row.cells[0].tuned, row.cells[0].set_aside) == ("sources=apple", ("sources=bbc at 0.0003",))
    assert "sources=bbc at 0.0003 was not compared" in analysis.render.to_markdown(
        analysis.benchmark_table(mark_chosen(build_frame(records)))
    )


def test_fixed_learning_rate_leaves_the_other_choice_to_validation(frame: pd.DataFrame) -> None:
    others = [job("best_source", seed, 0.95, 0.95, ["apple"], rate=1e-3) for seed in (0, 1)]
    both = mark_chosen(pd.concat([frame.drop(columns=["chosen", "tried"]), build_frame(others)], ignore_index=True))
    (free,) = analysis.benchmark_table(both, methods=["best_source"]).rows
    (fixed,) = analysis.benchmark_table(both, 3e-4, methods=["best_source"]).rows
    assert (free.cells[0].learning_rate, free.cells[0].tuned) == (1e-3, "sources=apple")
    assert (fixed.cells[0].learning_rate, fixed.cells[0].tuned) == (3e-4, "sources=bbc")
