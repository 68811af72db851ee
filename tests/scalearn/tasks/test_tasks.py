"""The registry of tasks, and what each task of the paper is."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scalearn.errors import UserError
from scalearn.tasks import benchmark_tasks, get_task, own_task, register_task


def test_benchmarks_have_the_tasks_of_the_paper() -> None:
    counts = {name: len(benchmark_tasks(name)) for name in ("glue", "super_glue", "humset", "gsg", "domains")}
    assert counts == {"glue": 8, "super_glue": 8, "humset": 5, "gsg": 15, "domains": 6}


def test_gsg_holds_rte_once_and_no_name_twice() -> None:
    names = [get_task(key).name for key in benchmark_tasks("gsg")]
    assert len(set(names)) == 15
    assert "glue/rte" in benchmark_tasks("gsg")


@pytest.mark.parametrize("key", [key for name in ("glue", "super_glue", "humset", "domains") for key in benchmark_tasks(name)])
def test_task_describes_itself(key: str) -> None:
    task = get_task(key)
    assert f"{task.benchmark}/{task.name}" == key
    assert task.primary_metric == task.metrics[0]
    assert task.template("default") == next(iter(task.templates.values()))
    assert task.num_labels is None or task.num_labels >= 1


def test_heads_follow_the_kinds() -> None:
    heads = {
        key: get_task(key).head for key in ("glue/stsb", "super_glue/copa", "super_glue/record", "super_glue/multirc", "humset/sectors")
    }
    assert heads == {
        "glue/stsb": "regression",
        "super_glue/copa": "multiple_choice",
        "super_glue/record": "classification",
        "super_glue/multirc": "classification",
        "humset/sectors": "multi_label",
    }


def test_reported_metrics_are_those_of_the_paper() -> None:
    reported = {get_task(key).name: get_task(key).primary_metric for key in benchmark_tasks("gsg")}
    assert {name: metric for name, metric in reported.items() if metric != "accuracy"} == {
        "cola": "matthews",
        "stsb": "pearson",
        "multirc": "f1a",
        "record": "f1",
    }
    assert {get_task(key).primary_metric for key in benchmark_tasks("humset")} == {"macro_f1"}


def test_lengths_are_those_of_the_paper() -> None:
    lengths = {get_task(key).name: get_task(key).max_length for key in benchmark_tasks("gsg")}
    assert {name: length for name, length in lengths.items() if length != 128} == {"multirc": 324, "record": 256}


@pytest.mark.parametrize(
    ("key", "template", "row", "expected"),
    [
        (
            "super_glue/copa",
            "default",
            {"premise": "It rained.", "question": "cause", "choice": "Clouds."},
            ("It rained. because", "Clouds."),
        ),
        ("super_glue/copa", "default", {"premise": "It rained.", "question": "effect", "choice": "Mud."}, ("It rained. so", "Mud.")),
        (
            "super_glue/wic",
            "question",
            {"word": "run", "sentence1": "I run.", "sentence2": "A run."},
            ("I run. A run. Does run have the same meaning in both sentences?", None),
        ),
        *(
            ("super_glue/wic", name, {"word": "run", "sentence1": "I run.", "sentence2": "A run."}, ("run: I run.", "run: A run."))
            for name in ("default", "pair")
        ),
        (
            "super_glue/wsc",
            "named",
            {"text": "Mark met Pete; he smiled.", "span1_text": "Mark", "span2_text": "he", "span2_index": 3},
            ("he: Mark met Pete; he smiled.", "Mark"),
        ),
        *(
            (
                "super_glue/wsc",
                name,
                {"text": "Mark met Pete;  he smiled.", "span1_text": "Mark", "span2_text": "he", "span2_index": 3},
                ("Mark met Pete; *he* smiled.", "Mark"),
            )
            for name in ("default", "marked")
        ),
        (
            "super_glue/record",
            "default",
            {"passage": "News.\n@highlight\nOne.\n@highlight\nTwo.", "query": "@placeholder won, said @placeholder.", "candidate": "Ann"},
            ("News.\n- One.\n- Two.", "Ann won, said Ann."),
        ),
        ("super_glue/multirc", "default", {"paragraph": "P.", "question": "Who?", "answer": ""}, ("P.", "Who? ")),
        ("glue/rte", "default", {"sentence1": "Braces {like} these.", "sentence2": "{0}"}, ("Braces {like} these.", "{0}")),
    ],
)
def test_template_renders_the_published_input(key: str, template: str, row: dict[str, object], expected: tuple[str, str | None]) -> None:
    assert get_task(key).template(template).render(row) == expected


@pytest.mark.parametrize(
    ("name", "nearest"), [("glue/rts", "glue/rte"), ("super_glue/boolqq", "super_glue/boolq"), ("domains/aple", "domains/apple")]
)
def test_unknown_task_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
        get_task(name)


def test_task_without_benchmark_names_the_full_key() -> None:
    with pytest.raises(UserError, match="did you mean 'glue/mnli'"):
        get_task("mnli")


def test_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'super_glue'"):
        benchmark_tasks("superglue")


def test_unknown_template_names_the_task_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"template 'pairs' in task super_glue/wic; did you mean 'pair'"):
        get_task("super_glue/wic").template("pairs")


def test_registering_twice_is_one_task_and_a_different_one_is_refused() -> None:
    task = own_task("registry_test/mine", {"columns": "text"})
    assert register_task(task) == register_task(own_task("registry_test/mine", {"columns": "text"}))
    assert benchmark_tasks("registry_test") == ("registry_test/mine",)
    with pytest.raises(UserError, match="defined twice"):
        register_task(replace(task, max_length=64))


KINDS = {
    "regression": "regression",
    "multiple_choice": "multiple choice",
    "multi_label": "multi-label",
    "per_candidate": "per candidate, grouped by query",
    "grouped_answers": "grouped answers",
}


def test_docs_state_inputs_metrics_and_lengths(repository: Path) -> None:
    rows = []
    for key in (key for name in ("glue", "super_glue", "humset") for key in benchmark_tasks(name)):
        task = get_task(key)
        inputs = [f"`{name}`: `{each.first}`" + (f", `{each.second}`" if each.second else "") for name, each in task.templates.items()]
        kind = KINDS.get(task.kind, "sentence pair" if task.template("default").second else "single sentence")
        rows.append(f"| `{key}` | {kind} | {'; '.join(inputs)} | {', '.join(task.metrics)} | {task.max_length} |")
    documented = re.findall(r"^\| `(?:glue|super_glue|humset)/.*$", (repository / "docs/tasks.md").read_text(), flags=re.MULTILINE)
    assert documented == rows


def test_importing_tasks_imports_nothing_heavy() -> None:
    program = (
        "import sys, scalearn.tasks.origin; print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
