"""Searched settings in the table, and the Pareto front."""

import json
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.reading.load import read_sweep
from analysis.report.results import gather, write_plots, write_tables
from analysis.tables.pareto import non_dominated, pareto
from tests.analysis.helpers.build_store import StoreSpec, build_store

RANKS = {2: (0.6, 0.9), 4: (0.7, 0.5), 8: (0.7, 0.8), 16: (0.65, 0.99)}
"""Validation and test score by rank."""


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A sweep in which a search tried four ranks of one method, each with two seeds."""
    manifests = []
    for rank, (validation, test) in RANKS.items():
        spec = StoreSpec(
            methods={"scalearn": (6e-3,)},
            targets=("apple",),
            settings={"scalearn": {"rank": rank}},
            score=lambda method, task, seed, rate, split, validation=validation, test=test: validation if split == "validation" else test,  # type: ignore[misc]
            history=False,
            omegas=False,
        )
        path = build_store(tmp_path, spec)
        manifests.append(json.loads(path.read_text()))
        for result in tmp_path.glob("domains/minilm/transfer/*/*/*/result.json"):
            config = json.loads((result.parent / "job.json").read_text())["config"]
            content = json.loads(result.read_text())
            content["parameters"]["transfer"] = 100 * config["settings"]["rank"]
            result.write_text(json.dumps(content))
    nodes = {entry["node"]: entry for manifest in manifests for entry in manifest["nodes"]}
    path.write_text(
        json.dumps(
            manifests[0] | {"nodes": list(nodes.values()), "searched": {"scalearn": ["rank"]}, "objectives": ["score", "parameters"]}
        )
    )
    return tmp_path


def test_searched_settings_are_chosen_by_validation_and_make_one_row(searched: Path) -> None:
    frame = analysis.load(searched, "demo")
    (row,) = analysis.benchmark_table(frame, methods=["scalearn"]).rows
    (cell,) = row.cells
    assert (row.variant, cell.tuned, cell.tried) == ("", "rank=4", 4)  # the smaller of equal scores, whatever their test scores
    assert (cell.mean, cell.validation, cell.count) == (0.5, 0.7, 2)
    jobs = frame[frame["method"] == "scalearn"].drop_duplicates("node")
    assert set(jobs.loc[jobs["chosen"], "tuned"]) == {"rank=4"}
    (fixed,) = analysis.benchmark_table(frame, 6e-3, methods=["scalearn"]).rows
    assert fixed.cells[0].tuned == "rank=4"


def test_front_holds_what_no_other_trial_beats_by_validation(searched: Path) -> None:
    trials = pareto(analysis.load(searched, "demo"))
    trials = trials[trials["method"] == "scalearn"].set_index("tuned")
    assert trials["front"].to_dict() == {"rank=2": True, "rank=4": True, "rank=8": False, "rank=16": False}
    assert trials["score"].to_dict() == {f"rank={rank}": pytest.approx(scores[0]) for rank, scores in RANKS.items()}
    assert trials["parameters"].to_dict() == {f"rank={rank}": 100 * rank for rank in RANKS}


def test_equal_trials_are_both_on_the_front_and_tasks_are_apart() -> None:
    trials = pd.DataFrame({"task": ["a", "a", "b", "b"], "score": [0.5, 0.5, 0.4, 0.6], "parameters": [10, 10, 10, 10]})
    assert non_dominated(trials) == [True, True, False, True]


def test_report_has_the_front_only_if_the_sweep_weighs_parameters(searched: Path, tmp_path: Path) -> None:
    results = gather(read_sweep(searched, "demo"))
    assert [row.cells[3].text for row in results.tables["pareto"].rows] == ["rank=4", "rank=2"]
    assert "pareto" in write_plots(results, tmp_path / "plots")
    assert "rank=4" in (next(path for path in write_tables(results, tmp_path / "tables") if path.name == "learning_rates.md")).read_text()
    manifest = searched / "sweeps" / "demo.json"
    manifest.write_text(json.dumps({key: value for key, value in json.loads(manifest.read_text()).items() if key != "objectives"}))
    plain = gather(read_sweep(searched, "demo"))
    assert "pareto" not in plain.tables
    assert "pareto" not in {plot.name for plot in plain.plots}
