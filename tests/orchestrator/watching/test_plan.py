"""A plan: counts, states from the store, and why a job that looks finished is not."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.definition.expand import Expansion
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from orchestrator.watching.plan import PlanResult, plan, print_plan
from scalearn.identity import to_plain

SWEEP = """\
name: small
benchmark: glue
backbone: roberta-base
targets: [rte]
sources: {tasks: [rte, cola]}
seeds: [0, 1]
methods: {adapter: {}, scalearn: {}}
"""


class Records:
    """A store that holds whole jobs in memory."""

    def __init__(self, *jobs: Job, states: Mapping[str, str] | None = None) -> None:
        self.jobs = jobs
        self.states = {job.node: "succeeded" for job in jobs} | dict(states or {})

    def state(self, node: str) -> str:
        return self.states.get(node, "pending")

    def namesakes(self, path: str) -> Iterable[Mapping[str, Any]]:
        documents = ((job, {"config": to_plain(job.config), "parents": [parent.node for parent in job.parents]}) for job in self.jobs)
        return [document for job, document in documents if job.path == path]


def graph(*overrides: str) -> Graph:
    return Sweep.from_text(SWEEP, overrides=overrides).expand()


def by_path(result: PlanResult, end: str) -> Any:
    (job,) = [job for job in result.jobs if job.path.endswith(end)]
    return job


def test_plan_without_store_has_everything_to_do():
    report = plan("small", graph()).to_json()
    assert report["jobs"] == {
        "total": 5,
        "by_stage": {"source": 2, "single": 1, "transfer": 2},
        "by_method": {"scalearn": 2},
        "by_state": {"cached": 0, "pending": 5},
    }
    assert [set(row) for row in report["nodes"]] == [{"node", "path", "state", "stage", "method", "task"}] * 5


def test_finished_jobs_are_cached_and_failed_ones_shown():
    jobs = list(graph())
    result = plan("small", graph(), Records(jobs[0], states={jobs[1].node: "failed"}))
    assert result.to_json()["jobs"]["by_state"] == {"cached": 1, "pending": 3, "failed": 1}
    assert all(job.why is None for job in result.jobs)


def test_near_twin_names_the_field_that_differs():
    result = plan("small", graph("training.transfer.epochs=29"), Records(*graph()))
    assert by_path(result, "scalearn/rte/lr6e-03-seed0").why == "optimisation.epochs is 29, stored 30"
    assert by_path(result, "adapter/rte/lr3e-04-seed0").state == "cached"


def test_nearest_of_several_namesakes_is_compared():
    def variant(*overrides: str) -> list[Job]:
        return list(graph(*overrides))

    store = Records(*variant("training.transfer={epochs: 3, patience: 2, batch_size: 16}"), *variant("training.transfer.epochs=7"))
    assert by_path(plan("small", graph(), store), "scalearn/rte/lr6e-03-seed1").why == "optimisation.epochs is 30, stored 7"


def test_job_whose_parent_changed_names_the_parent():
    changed = graph("training.tasks.cola.source.epochs=9")
    result = plan("small", changed, Records(*graph()))
    parent = by_path(result, "adapter/cola/lr3e-04-seed0")
    assert parent.why == "optimisation.epochs is 9, stored 30"
    assert by_path(result, "scalearn/rte/lr6e-03-seed0").why == f"its parent {parent.node} is new"


def test_job_with_other_rivals_is_to_be_run_and_says_so():
    def rates(listed: str) -> Graph:
        return graph("training={early_stopping: asha}", f"methods.scalearn.learning_rate={listed}")

    result = plan("small", rates("[6e-3, 2e-2]"), Records(*rates("[6e-3, 1e-3, 2e-3]")))
    job = by_path(result, "scalearn/rte/lr6e-03-seed0")
    assert (job.state, job.why) == ("pending", "early stopping compares it with other learning rates or seeds")
    assert by_path(plan("small", rates("[6e-3, 2e-2]"), Records(*graph())), "lr6e-03-seed0").why.startswith("optimisation.early_stopping")


def test_place_of_the_weights_is_no_difference():
    (job,) = Graph([replace_backbone(next(iter(graph())), "/here")])
    namesake = replace_backbone(job, "/there")
    assert plan("x", Graph([job]), Records(namesake)).jobs[0].state == "cached"


def replace_backbone(job: Job, place: str) -> Job:
    return Job(replace(job.config, backbone=place, backbone_origin="files:sha256-00112233"), job.parents)


@pytest.mark.parametrize("name", ["schema_version", "identity"])  # the second is what older jobs wrote
def test_job_under_another_schema_version_says_so(name: str):
    class Older(Records):
        def namesakes(self, path: str) -> Iterable[Mapping[str, Any]]:
            return [{**namesake, name: 0} for namesake in super().namesakes(path)]

    jobs = list(graph())
    result = plan("small", graph(), Older(*jobs, states={job.node: "pending" for job in jobs}))
    assert result.jobs[0].why == "identity schema is 1, stored 0"


def test_damaged_record_of_a_twin_is_compared_without_failing():
    class Damaged(Records):
        def namesakes(self, path: str) -> Iterable[Mapping[str, Any]]:
            return [{}, {"config": [1, 2], "parents": "none"}]

    assert "stored absent" in (plan("small", graph(), Damaged()).jobs[0].why or "")


def test_printed_plan_holds_counts_paths_and_changes():
    console = Console(file=io.StringIO(), width=100)
    result = plan("small", graph("training.transfer.epochs=29"), Records(*graph()))
    print_plan(result, console, limit=4)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines()[-1] == "small: 5 jobs (3 cached, 2 pending)"
    changed = [line for line in text.splitlines() if line.startswith("changed")]
    assert changed == ["changed  glue/roberta-base/transfer/scalearn/rte/lr6e-03-seed0 and 1 more: optimisation.epochs is 29, stored 30"]
    assert f"cached   {result.jobs[0].node}" in text
    assert "... and 1 more; --json lists them all" in text


def test_plan_at_80_columns_shows_whole_names_of_methods():
    console = Console(file=io.StringIO(), width=80)
    print_plan(plan("quickstart", Sweep.load("quickstart").expand()), console, limit=0)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for method in ("adapterfusion", "scalearn_uniform", "scalearn_uniform_pp"):
        assert f" {method} " in text
    assert text.splitlines()[-1] == "quickstart: 111 jobs (111 pending)"


def test_trials_that_are_yet_to_be_proposed_are_counted_and_not_named():
    sweep = Sweep.from_text(
        SWEEP.replace("scalearn: {}", "scalearn: {learning_rate: {low: 1e-3, high: 1e-1, log: true}}"),
        overrides=["search={by: optuna, trials: 7}"],
    )
    known, ahead = Expansion(sweep).expand().graph, Expansion(sweep).expand(ahead=True).graph
    result = plan(sweep.name, known, None, ahead)
    shown = result.to_json()
    assert shown["jobs"]["by_method"] == {"scalearn": 14}
    assert shown["jobs"]["by_state"] == {"cached": 0, "pending": len(known), "unproposed": 6}
    assert [row["node"] for row in shown["nodes"]] == list(known.nodes())
    console = Console(file=io.StringIO(), width=300)
    print_plan(result, console)
    assert "and 6 of trials that the search has yet to propose" in console.file.getvalue()  # type: ignore[attr-defined]
