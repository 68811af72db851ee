import io
import json
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
from rich.console import Console

import analysis
from analysis.reading.frame import build_frame
from analysis.reading.records import Record
from analysis.tables.benchmark import BenchmarkTable, Row
from analysis.tables.grid import layout
from analysis.tables.render import to_csv, to_html, to_latex, to_markdown, to_terminal
from tests.analysis.helpers.build_store import StoreSpec, build_store, default_score


def row(table: BenchmarkTable, method: str) -> Row:
    (found,) = [row for row in table.rows if row.method == method]
    return found


def test_table_cells_are_means_and_sample_deviations_of_the_test_scores(complete_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, sweep="demo"))
    assert table.targets == ("domains/apple", "domains/coachella")
    expected = [default_score("adapterfusion", "domains/apple", seed, 5e-5, "test") for seed in (0, 1)]
    cell = row(table, "adapterfusion").cells[0]
    assert cell.mean == pytest.approx(mean(expected))
    assert cell.std == pytest.approx(stdev(expected))
    assert cell.scores == ((0, expected[0]), (1, expected[1]))
    columns = [[default_score("adapterfusion", task, seed, 5e-5, "test") for task in table.targets] for seed in (0, 1)]
    assert row(table, "adapterfusion").average_std == pytest.approx(stdev([mean(scores) for scores in columns]))


def test_table_learning_rate_follows_validation_and_ignores_test(tmp_path: Path) -> None:
    def score(method: str, task: str, seed: int, rate: float, split: str) -> float:
        better_on_validation = rate == 6e-3
        return 0.9 if (split == "validation") == better_on_validation else 0.6

    build_store(tmp_path, StoreSpec(score=score))
    cell = row(analysis.benchmark_table(analysis.load(tmp_path, sweep="demo")), "scalearn").cells[0]
    assert (cell.learning_rate, cell.mean, cell.validation) == (6e-3, pytest.approx(0.6), pytest.approx(0.9))


def test_table_tied_learning_rates_go_to_the_smaller(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(score=lambda method, task, seed, rate, split: 0.7))
    cell = row(analysis.benchmark_table(analysis.load(tmp_path, sweep="demo")), "scalearn").cells[0]
    assert cell.learning_rate == 6e-3


def test_table_learning_rate_with_a_crashed_seed_cannot_win_by_its_survivor(tmp_path: Path) -> None:
    def score(method: str, task: str, seed: int, rate: float, split: str) -> float:
        return 0.9 if rate == 2e-2 else 0.6

    build_store(tmp_path, StoreSpec(score=score, states={"scalearn/apple/lr2e-02-seed1": "failed"}))
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="demo"))
    apple, coachella = row(table, "scalearn").cells
    assert (apple.learning_rate, apple.set_aside) == (6e-3, (0.02,))
    assert (coachella.learning_rate, coachella.set_aside) == (2e-2, ())
    assert "Learning rate 0.02 was not compared" in to_markdown(table)


def test_table_footnote_counts_jobs_that_were_cut_apart_where_they_stand_behind_the_mean(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(score=lambda method, task, seed, rate, split: 0.9 if rate == 6e-3 else 0.6))
    frame = analysis.load(tmp_path, sweep="demo")
    mine = (frame["method"] == "scalearn") & (frame["task"] == "domains/apple")
    cut = mine & ((frame["learning_rate"] == 2e-2) | (frame["seed"] == 1))
    table = analysis.benchmark_table(frame.assign(stopped_by=frame["stopped_by"].mask(cut, "asha")))
    assert [(cell.halted, cell.halted_others) for cell in row(table, "scalearn").cells] == [(1, 2), (0, 0)]
    text = to_markdown(table)
    assert "1 of the 2 jobs at the chosen learning rate, and 2 at others, ended early because other jobs did better (asha)." in text


def test_table_footnote_says_what_is_suspicious_about_the_rows_of_a_target(tmp_path: Path) -> None:
    build_store(tmp_path)
    sentence = "Task domains/apple: every label of train is 'pos', so there is nothing to learn; check its label column."
    for path in tmp_path.rglob("result.json"):
        result = json.loads(path.read_text())
        if "domains/apple" in result["scores"]:
            path.write_text(json.dumps({**result, "data_warnings": {"domains/apple": [sentence]}}))
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="demo"))
    assert [cell.data_warnings for cell in row(table, "scalearn").cells] == [(sentence,), ()]
    assert to_markdown(table).count(sentence) == 1


def test_table_fixed_learning_rate_leaves_methods_without_it_empty_and_says_so(complete_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, sweep="demo"), rule="6e-3")
    assert row(table, "scalearn").cells[0].learning_rate == 6e-3
    assert row(table, "adapter").cells[0].mean is None
    assert "No job with learning rate 0.006" in to_markdown(table)


def test_table_unknown_rule_is_refused(complete_store: Path) -> None:
    with pytest.raises(analysis.ResultsError, match="Unknown selection rule 'test'"):
        analysis.benchmark_table(analysis.load(complete_store), rule="test")


def test_table_broken_sweep_footnotes_cells_and_marks_incomplete_averages(broken_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(broken_store, sweep="demo"))
    uniform_pp = row(table, "scalearn_uniform_pp")
    assert not uniform_pp.is_complete
    assert uniform_pp.average == uniform_pp.cells[0].mean
    assert row(table, "scalearn_pp").cells[0].count == 1
    text = to_markdown(table)
    assert "1 of 2 jobs have a score: 1 failed (the loss became nan" in text
    assert "1 of 2 jobs have a score: 1 running." in text
    assert "1 of 2 jobs have a score: 1 pending." in text
    assert "0 of 2 jobs have a score: 2 failed" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| ScaLearnUniform++")]
    assert "<sup>†</sup>" in line
    assert "Seed counts differ: n = Apple 2 or 1, Coachella 2." in text


def test_table_jobs_that_differ_in_a_setting_are_rows_of_their_own(tmp_path: Path) -> None:
    build_store(tmp_path)
    build_store(
        tmp_path,
        StoreSpec(sweep="nodrop", methods={"scalearn": (6e-3,)}, settings={"scalearn": {"omega_dropout": 0.0}}, backbone="minilm2"),
    )
    frame = analysis.load(tmp_path)
    frame = frame.assign(backbone="minilm").astype({"backbone": "str"})
    table = analysis.benchmark_table(frame, methods=["scalearn"])
    assert [row.title for row in table.rows] == ["ScaLearn (omega_dropout=0)", "ScaLearn (omega_dropout=0.3)"]
    assert {cell.count for row in table.rows for cell in row.cells} == {2}


def test_table_joint_method_has_one_learning_rate_and_counts_its_parameters_once() -> None:
    rows = []
    validation = {("glue/rte", 1e-4): 0.9, ("glue/cola", 1e-4): 0.1, ("glue/rte", 3e-4): 0.7, ("glue/cola", 3e-4): 0.5}
    for (task, rate), value in validation.items():
        common = {
            "node": f"joint-{rate}",
            "state": "succeeded",
            "stage": "joint",
            "method": "hyperformer",
            "task": task,
            "backbone": "roberta-base",
        }
        common |= {
            "benchmark": "glue",
            "seed": 0,
            "learning_rate": rate,
            "parameters_transfer": 500,
            "parameters_source": 0,
            "metric": "accuracy",
            "primary": True,
            "error": None,
            "stopped_by": None,
            "data_warnings": None,
        }
        rows += [common | {"split": "validation", "value": value}, common | {"split": "test", "value": 0.5}]
    table = analysis.benchmark_table(pd.DataFrame(rows).assign(tuned=None, source_seed=None, sources=None, source_count=None))
    (joint,) = table.rows
    assert [cell.learning_rate for cell in joint.cells] == [3e-4, 3e-4]
    assert (joint.parameters_total, joint.parameters_per_target) == (500, (None, None))


def test_render_best_is_bold_and_second_underlined_in_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"adapter": 0.8, "adapterfusion": 0.7, "scalearn": 0.80001, "scalearn_pp": 0.75}
    spec = StoreSpec(methods=dict.fromkeys(scores, (3e-4,)), score=lambda method, task, seed, rate, split: scores[method])
    build_store(tmp_path, spec)
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="demo"))
    markdown = {line.split(" | ")[0].strip("| "): line for line in to_markdown(table).splitlines() if line.startswith("|")}
    # 80.00 and 80.001 print alike, so both are best; 75 is the second.
    assert markdown["Adapter"].count("**80.00**") == 3
    assert markdown["ScaLearn"].count("**80.00**") == 3
    assert markdown["ScaLearn++"].count("<u>75.00</u>") == 3
    assert "70.00" in markdown["AdapterFusion"]
    latex = to_latex(table)
    assert latex.count(r"\textbf{80.00}") == 6
    assert latex.count(r"\underline{75.00}") == 3
    html = to_html(table)
    assert (html.count("<strong>80.00</strong>"), html.count("<u>75.00</u>")) == (6, 3)
    to_terminal(table)
    assert "ScaLearn++" in capsys.readouterr().out


def test_render_csv_holds_full_numbers_and_reads_back(complete_store: Path, tmp_path: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, sweep="demo"))
    path = tmp_path / "table.csv"
    path.write_text(to_csv(table))
    read = pd.read_csv(path).set_index(["method", "task"])
    assert read.loc[("scalearn", "apple"), "mean"] == row(table, "scalearn").cells[0].mean
    assert read.loc[("scalearn", "average"), "mean"] == row(table, "scalearn").average
    assert read.loc[("scalearn", "apple"), "n"] == 2


def test_render_html_and_latex_escape_what_they_print(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(sweep="a<b>&c_d%", states={"scalearn_pp/apple/lr6e-03-seed1": "failed"}))
    table = analysis.benchmark_table(analysis.load(tmp_path, sweep="a<b>&c_d%"))
    assert "a&lt;b&gt;&amp;c_d%" in to_html(table)
    assert r"a\textless{}b\textgreater{}\&c\_d\%" in to_latex(table)


def test_render_terminal_too_narrow_prints_parts_and_cuts_no_number(complete_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, sweep="demo"))
    wide, narrow = Console(width=200, file=io.StringIO()), Console(width=44, file=io.StringIO())
    to_terminal(table, wide)
    to_terminal(table, narrow)
    printed = [console.file.getvalue() for console in (wide, narrow)]  # type: ignore[attr-defined]
    assert [text.count("ScaLearnUniform++") for text in printed] == [1, 5]
    for cell in (cell for row in layout(table).rows for cell in row.cells[1:]):
        assert all(cell.text in text for text in printed)


def test_table_of_two_joined_sweeps_counts_a_shared_node_once(complete_store: Path) -> None:
    frame = analysis.load(complete_store, "demo")
    twice = pd.concat([frame, frame])
    assert to_csv(analysis.benchmark_table(twice, targets=["domains/apple"])) == to_csv(
        analysis.benchmark_table(frame, targets=["domains/apple"])
    )


def test_table_variant_is_named_by_what_tells_it_apart_and_not_by_what_follows(tmp_path: Path) -> None:
    frames = []
    for rows, patience in ((4, 20), (16, 20), (None, 5)):
        spec = StoreSpec(methods={"scalearn": (6e-3,)}, data={"few_shot": rows, "evaluation_rows": patience * 100})
        build_store(tmp_path / str(rows), spec)
        frames.append(analysis.load(tmp_path / str(rows), "demo"))
    table = analysis.benchmark_table(pd.concat(frames), methods=["scalearn"], targets=["domains/apple"])
    assert [row.variant for row in table.rows] == ["few_shot=4", "few_shot=16", "few_shot=none"]


def test_frame_identifies_adapters_from_elsewhere_by_content_wherever_they_lie() -> None:
    def record(place: str) -> Record:
        external = [{"name": "mnli", "origin": "files:sha256-00ff", "place": place}]
        config = {"method": "scalearn", "data": [{"task": "glue/rte"}], "sources": ["rte", "mnli"], "external": external}
        return Record(f"node of {place}", "succeeded", config=config)

    frame = build_frame([record("/here/mnli"), record("/there/mnli")])
    assert frame["external"].tolist() == ["mnli=files:sha256-00ff"] * 2
    assert frame["sources"].tolist() == ["rte,mnli"] * 2


def test_table_field_younger_than_some_records_does_not_split_a_method(tmp_path: Path) -> None:
    frames = []
    for name, data in (("older", {}), ("younger", {"brand_new_field": False})):
        build_store(tmp_path / name, StoreSpec(methods={"scalearn": (6e-3,)}, data=data, seeds=(0,) if data else (1,)))
        frames.append(analysis.load(tmp_path / name, "demo"))
    table = analysis.benchmark_table(pd.concat(frames), methods=["scalearn"], targets=["domains/apple"])
    assert [(row.variant, len(row.cells[0].scores)) for row in table.rows] == [("", 2)]


def test_table_adapter_counts_its_own_parameters(complete_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, "demo"))
    assert row(table, "adapter").parameters_per_target == (115_000, 115_000)
    assert row(table, "scalearn").parameters_total == 2 * 384 * 6 * 3
