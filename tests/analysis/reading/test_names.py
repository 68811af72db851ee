"""What results say about the names of their methods and tasks, and what is shown where they say nothing or nonsense."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.reading import names as module
from analysis.reading.names import Names, short_name
from tests.analysis.helpers.build_store import StoreSpec, build_store

SPEC = StoreSpec(methods={"mine": (1e-3,), "scalearn": (6e-3,), "adapterfusion": (5e-5,)}, history=False, omegas=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Results of an earlier version, which say nothing, of two methods that it knew and one of a package."""
    build_store(tmp_path, SPEC)
    return tmp_path


def tell(store: Path, methods: Mapping[str, Any], tasks: Mapping[str, Any], started: float | None = None) -> None:
    """Let every job, or those that begin at a time, say something; nothing stands in the manifest."""
    for path in store.rglob("job.json"):
        job = json.loads(path.read_text())
        if started is None or job["started"] == started:
            path.write_text(json.dumps(job | {"names": {"methods": methods, "tasks": tasks}}))


def rows(store: Path, sweep: str | None = "demo") -> list[tuple[str, str]]:
    table = analysis.benchmark_table(analysis.load(store, sweep), methods=list(SPEC.methods))
    return [(row.family, row.title) for row in table.rows]


def test_results_that_say_nothing_are_shown_as_they_were(store: Path) -> None:
    titles = ["AdapterFusion", "ScaLearn", "mine"]
    assert rows(store) == [("two_stage", title) for title in titles]
    names = Names()
    assert names.method_title("scalearn_fixed") == "ScaLearn (fixed)"
    assert names.order_tasks(["glue/rte", "glue/cola", "glue/zeta", "glue/mnli"]) == ["glue/mnli", "glue/rte", "glue/cola", "glue/zeta"]
    assert [names.task_title(task) for task in ("glue/sst2", "mine/rte", "mine/my_own", "mine/myOwn")] == [
        "SST-2",
        "RTE",
        "My Own",
        "myOwn",
    ]
    assert names.task_title("glue/rte", ("glue/rte", "super_glue/rte")) == "RTE (glue)"


def test_names_before_results_said_any_are_never_changed() -> None:
    content = Path(module.__file__).with_name("names_before.json").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "755c73a9261b4c0c", "what earlier results were called is no place for new methods"


@pytest.mark.parametrize("sweep", ["demo", None])
def test_title_order_and_family_of_a_method_and_title_of_a_task_are_those_that_results_say(store: Path, sweep: str | None) -> None:
    tasks = {"domains/apple": {"title": "Fruit", "order": 9}, "domains/coachella": {"order": 1}}
    tell(store, {"mine": {"title": "My <own>", "family": "joint", "order": 0}}, tasks)
    assert rows(store, sweep) == [("joint", "My <own>"), ("two_stage", "AdapterFusion"), ("two_stage", "ScaLearn")]
    table = analysis.benchmark_table(analysis.load(store, sweep))
    assert dict(zip(map(short_name, table.targets), table.target_titles, strict=True)) == {"apple": "Fruit", "coachella": "Coachella"}
    assert "My &lt;own&gt;" in analysis.render.to_html(table)
    whole = analysis.benchmark_table(analysis.load(store))
    assert whole.target_titles == ("Coachella", "Fruit")  # no sweep names its columns' order


def test_method_that_takes_the_title_of_another_is_told_apart_by_its_key(store: Path) -> None:
    tell(store, {"mine": {"title": "ScaLearn", "family": "two_stage", "order": 1}}, {})
    assert [title for _, title in rows(store)] == ["ScaLearn (mine)", "AdapterFusion", "ScaLearn"]


def test_job_begun_last_is_right_where_jobs_disagree(store: Path) -> None:
    times = sorted(json.loads(path.read_text())["started"] for path in store.rglob("job.json"))
    for number, time in enumerate(times):
        tell(store, {"mine": {"title": f"Title {number:02}"}}, {}, time)
    assert ("two_stage", f"Title {len(times) - 1:02}") in rows(store, None)


@pytest.mark.parametrize(
    "methods",
    [
        {"mine": {"title": ["x"]}},
        {"mine": {"title": 3, "order": "first"}},
        {"mine": None},
        {"mine": {"title": None, "family": None, "order": None}},
        {"mine": {"family": "another"}},
        [],
        "mine",
    ],
)
def test_names_that_no_job_would_write_are_left_out(store: Path, methods: Any) -> None:
    tell(store, methods, {})
    assert rows(store) == [("two_stage", title) for title in ("AdapterFusion", "ScaLearn", "mine")]


def test_metric_of_a_target_without_a_score_is_the_one_that_its_results_say(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(methods=SPEC.methods, states={"transfer": "running"}, history=False, omegas=False))
    assert analysis.benchmark_table(analysis.load(tmp_path, "demo")).metrics == ("", "")
    tell(tmp_path, {}, {"domains/apple": {"metric": "macro_f1"}})
    assert analysis.benchmark_table(analysis.load(tmp_path, "demo")).metrics == ("macro_f1", "")
