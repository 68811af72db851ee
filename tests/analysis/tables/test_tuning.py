"""How many learning rates stand behind a row: in every format, in the frame, and said so where rows differ."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import analysis
from analysis.reading.load import read_sweep
from analysis.report.mlflow_sweep import sweep_description
from analysis.report.results import gather
from analysis.report.summary import findings
from analysis.tables.benchmark import tuning_note
from analysis.tables.grid import layout
from analysis.tables.render import to_csv, to_html, to_latex, to_markdown, to_terminal
from tests.analysis.helpers.build_store import StoreSpec, build_store

UNEQUAL = "Rows were not tuned alike: learning rates tried 2 (ScaLearn), 1 (all others). Choosing among more favours a row."
EQUAL = StoreSpec(methods={"scalearn": (6e-3, 2e-2), "adapterfusion": (5e-5, 5e-4)}, history=False, omegas=False)


@pytest.fixture(scope="module")
def equal_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("equal")
    build_store(root, EQUAL)
    return root


def test_table_says_in_every_format_how_many_rates_each_row_tried_and_that_rows_differ(
    complete_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, "demo"))
    grid = layout(table)
    column = grid.header.index("Rates")
    assert grid.subheader[column] == "tried"
    assert {row.cells[0].text: row.cells[column].text for row in grid.rows} == {
        **dict.fromkeys(("Adapter", "AdapterFusion", "ScaLearnUniform", "ScaLearn++", "ScaLearnUniform++"), "1"),
        "ScaLearn": "2",
    }
    to_terminal(table, Console(width=400))
    for text in (to_markdown(table), to_html(table), to_latex(table), capsys.readouterr().out):
        assert UNEQUAL in text
        assert "Rates" in text
    results = gather(read_sweep(complete_store, "demo"))
    assert UNEQUAL in findings(results)
    # The description in MLflow leaves the table's notes out, but not this.
    assert UNEQUAL in sweep_description(results)
    rows = [line.split(",") for line in to_csv(table).splitlines()]
    tried = rows[0].index("tried")
    assert {(row[0], row[tried]) for row in rows[1:]} == {
        (method, "2" if method == "scalearn" else "1") for method in {row.method for row in table.rows}
    }


def test_table_of_equal_tuning_says_nothing_of_it(equal_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(equal_store, "demo"))
    assert {row.tried for row in table.rows} == {(2,)}
    assert tuning_note(table.rows) == []
    assert "not tuned alike" not in to_markdown(table)
    # A fixed learning rate is chosen among one.
    fixed = analysis.benchmark_table(analysis.load(equal_store, "demo"), rule={"scalearn": 6e-3})
    assert {row.method: row.tried for row in fixed.rows} == {"scalearn": (1,), "adapterfusion": (2,)}
    assert len(tuning_note(fixed.rows)) == 1


def test_table_row_whose_cells_chose_among_unlike_numbers_says_both(tmp_path: Path) -> None:
    build_store(tmp_path, replace(EQUAL, states={"scalearn/apple/lr2e-02": "pending"}))
    table = analysis.benchmark_table(analysis.load(tmp_path, "demo"))
    assert {row.method: row.tried for row in table.rows} == {"scalearn": (1, 2), "adapterfusion": (2,)}
    assert {row.cells[0].text: row.cells[4].text for row in layout(table).rows} == {"ScaLearn": "1 or 2", "AdapterFusion": "2"}
    assert tuning_note(table.rows) == [
        "Rows were not tuned alike: learning rates tried 1 or 2 (ScaLearn), 2 (all others). Choosing among more favours a row."
    ]


def test_rate_that_only_some_seeds_have_is_not_counted_as_tried(tmp_path: Path) -> None:
    build_store(tmp_path, replace(EQUAL, states={"scalearn/apple/lr2e-02-seed1": "pending"}))
    (row,) = [row for row in analysis.benchmark_table(analysis.load(tmp_path, "demo")).rows if row.method == "scalearn"]
    assert (row.cells[0].learning_rate, row.cells[0].tried, row.cells[0].set_aside) == (6e-3, 1, (2e-2,))


def test_rate_whose_jobs_all_failed_counts_as_tried_and_is_named_as_not_compared(tmp_path: Path) -> None:
    build_store(tmp_path, replace(EQUAL, states={"scalearn/apple/lr2e-02": "failed"}))
    table = analysis.benchmark_table(analysis.load(tmp_path, "demo"))
    (row,) = [row for row in table.rows if row.method == "scalearn"]
    assert (row.cells[0].learning_rate, row.cells[0].tried, row.cells[0].set_aside) == (6e-3, 2, (2e-2,))
    assert "Learning rate 0.02 was not compared" in to_markdown(table)


def test_settings_make_rows_of_their_own_and_are_not_counted_as_tried(tmp_path: Path) -> None:
    frames = []
    for dropout in (0.0, 0.3):
        spec = replace(EQUAL, methods={"scalearn": (6e-3, 2e-2)}, settings={"scalearn": {"omega_dropout": dropout}})
        build_store(tmp_path / str(dropout), spec)
        frames.append(analysis.load(tmp_path / str(dropout), "demo"))
    table = analysis.benchmark_table(pd.concat(frames), methods=["scalearn"], targets=["domains/apple"])
    assert [(row.variant, row.tried) for row in table.rows] == [("omega_dropout=0", (2,)), ("omega_dropout=0.3", (2,))]


def test_frame_marks_the_jobs_that_the_table_shows_and_how_many_rates_there_were(complete_store: Path) -> None:
    frame = analysis.load(complete_store, "demo")
    table = analysis.benchmark_table(frame)
    shown = frame[frame["chosen"] & frame["primary"].fillna(False) & (frame["split"] == "test")]
    means = shown.groupby(["method", "task"])["value"].mean()
    assert {(row.method, cell.target): cell.mean for row in table.rows for cell in row.cells} == pytest.approx(means.to_dict())
    assert set(shown["node"]) == {node for row in table.rows for node in row.nodes}
    tried = frame.drop_duplicates("node").set_index("node")["tried"]
    scalearn = [node for node in tried.index if "/scalearn/" in node]
    assert set(tried[scalearn]) == {2}
    mere_source = [node for node in tried.index if "/adapter/airlines/" in node]
    assert tried[mere_source].isna().all()
    assert not frame.loc[frame["node"].isin(mere_source), "chosen"].any()
    assert set(tried.drop([*scalearn, *mere_source])) == {1}


def test_frame_marks_no_job_of_a_cell_without_a_score(tmp_path: Path) -> None:
    build_store(tmp_path, replace(EQUAL, states={"scalearn/apple": "failed"}))
    frame = analysis.load(tmp_path, "demo")
    jobs = frame[(frame["method"] == "scalearn") & (frame["task"] == "domains/apple")]
    assert (jobs["chosen"].any(), set(jobs["tried"])) == (False, {2})


def test_frame_of_a_joint_method_marks_one_rate_for_all_targets(tmp_path: Path) -> None:
    manifest = build_store(tmp_path, EQUAL)
    content = json.loads(manifest.read_text())
    source = next(tmp_path.glob("**/source/adapter/apple/*"))
    lines = []
    scores = {
        (1e-4, "domains/apple"): 0.9,
        (1e-4, "domains/coachella"): 0.1,
        (3e-4, "domains/apple"): 0.7,
        (3e-4, "domains/coachella"): 0.5,
    }
    for rate in (1e-4, 3e-4):
        node = f"domains/minilm/joint/hyperformer/all/lr{rate:.0e}-seed0-0123456789"
        job, result = (json.loads((source / name).read_text()) for name in ("job.json", "result.json"))
        tasks = ["domains/apple", "domains/coachella"]
        data = [job["config"]["data"][0] | {"task": task} for task in tasks]
        optimisation = job["config"]["optimisation"] | {"learning_rate": rate}
        config = job["config"] | {"stage": "joint", "method": "hyperformer", "data": data, "optimisation": optimisation}
        result["scores"] = {task: {split: {"accuracy": scores[rate, task]} for split in ("validation", "test")} for task in tasks}
        result["primary_metric"] = dict.fromkeys(tasks, "accuracy")
        (tmp_path / node).mkdir(parents=True)
        job |= {"node": node, "fingerprint": "0123456789", "stage": "joint", "config": config}
        (tmp_path / node / "job.json").write_text(json.dumps(job))
        (tmp_path / node / "result.json").write_text(json.dumps(result))
        (tmp_path / node / "SUCCESS.json").write_text((source / "SUCCESS.json").read_text())
        lines.append({"node": node, "stage": "joint", "method": "hyperformer", "task": "+".join(tasks), "seed": 0, "learning_rate": rate})
    methods = [*content["methods"], "hyperformer"]
    manifest.write_text(json.dumps(content | {"methods": methods, "nodes": [*content["nodes"], *lines]}))
    frame = analysis.load(manifest)
    joint = frame[frame["method"] == "hyperformer"]
    assert set(joint["tried"]) == {2}
    assert set(joint.loc[joint["chosen"], "learning_rate"]) == {3e-4}
    assert set(joint.loc[joint["chosen"], "task"]) == {"domains/apple", "domains/coachella"}
