"""Short forms of rows: `grid`, `zip` and sets of sources give the jobs that rows written out would give."""

import json
from collections import Counter
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

ALL = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def expand(methods: dict[str, Any], **keys: Any) -> Graph:
    document = {"name": "rows", "benchmark": "glue", "backbone": "roberta-base", "targets": ["cola", "rte"], "methods": methods, **keys}
    return Sweep.from_text(json.dumps(document)).expand()


def stacks(sets: dict[str, Any], target: str, **keys: Any) -> list[tuple[str, ...]]:
    graph = expand({"scalearn": {"sources": sets}}, targets=[target], **keys)
    return [job.config.sources for job in graph if job.config.method == "scalearn"]


def transfers(graph: Graph) -> list[Job]:
    return [job for job in graph if job.config.stage == "transfer"]


@pytest.mark.parametrize(
    ("method", "short", "long"),
    [
        (
            "scalearn_fixed",
            {"sources": ["target", "sst2"], "grid": {"omega": [[0, 0.5], [0, 0.3, 1]]}},
            [{"sources": ["target", "sst2"], "settings": {"omega": [[one, two] for one in (0, 0.5) for two in (0, 0.3, 1)]}}],
        ),
        (
            "scalearn_fixed",
            {"sources": ["target", "sst2"], "zip": {"omega": [[0, 0.5, 1], [1, 0.5, 0]]}},
            [{"sources": ["target", "sst2"], "settings": {"omega": [[0, 1], [0.5, 0.5], [1, 0]]}}],
        ),
        (
            "scalearn",
            {"grid": {"omega_dropout": [0, 0.3], "learning_rate": [1e-3, 6e-3]}},
            [{"learning_rate": [1e-3, 6e-3], "settings": {"omega_dropout": [0.0, 0.3]}}],
        ),
        (
            "scalearn",
            {"grid": {"batch_size": [16, 32]}, "zip": {"omega_dropout": [0, 0.3], "epochs": [5, 9]}, "learning_rate": [1e-3, 6e-3]},
            [
                {"learning_rate": [1e-3, 6e-3], "batch_size": size, "epochs": epochs, "settings": {"omega_dropout": dropout}}
                for size in (16, 32)
                for dropout, epochs in ((0.0, 5), (0.3, 9))
            ],
        ),
        (
            "scalearn",
            {"zip": {"learning_rate": [1e-3, 6e-3], "batch_size": [16, 32]}},
            [{"learning_rate": 1e-3, "batch_size": 16}, {"learning_rate": 6e-3, "batch_size": 32}],
        ),
        (
            "scalearn",
            {"sources": {"leave_out": 1}},
            [{"sources": [name for name in ALL if name != left]} for left in ALL],
        ),
        ("scalearn", {"sources": {"subsets": {"sizes": 8, "draws": 3}}}, [{}]),
        (
            "scalearn",
            {"sources": {"subsets": {"sizes": [2], "draws": 100}}},
            [{"sources": list(pair)} for pair in combinations(ALL, 2)],
        ),
    ],
)
@pytest.mark.parametrize("early", [None, "asha"])
def test_short_form_gives_the_jobs_and_fingerprints_of_the_rows_written_out(method: str, short: Any, long: Any, early: str | None):
    training = {"early_stopping": early}
    found = expand({method: short}, training=training)
    assert set(found.nodes()) == set(expand({method: long}, training=training).nodes())
    assert len(transfers(found)) == len(set(found.nodes())) - sum(job.config.stage == "source" for job in found)


def test_row_beside_a_short_form_shares_its_jobs():
    both = expand({"scalearn": [{}, {"sources": {"subsets": {"sizes": [3, 8], "draws": 2}}}]})
    assert Counter(len(job.config.sources) for job in transfers(both)) == {3: 4, 8: 2}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
    draws=st.integers(1, 12),
    seed=st.integers(0, 5),
    nested=st.booleans(),
    kept=st.sampled_from(["always", "never", None]),
    target=st.sampled_from(["cola", "rte"]),
)
def test_subsets_have_the_asked_sizes_in_stacking_order_and_obey_always_and_never(sizes, draws, seed, nested, kept, target):
    sizes = sorted({min(size, 7) for size in sizes}) if kept == "never" else sorted(sizes)
    subsets = {"sizes": sizes, "draws": draws, "seed": seed, "nested": nested} | ({kept: ["target"]} if kept else {})
    found = stacks({"subsets": subsets}, target)
    assert found == stacks({"subsets": subsets}, target)
    assert len(set(found)) == len(found)
    assert all(list(names) == [name for name in ALL if name in names] for names in found)
    if kept is not None:
        assert {target in names for names in found} == {kept == "always"}
    free, fixed = (7, int(kept == "always")) if kept else (8, 0)
    counts = Counter(map(len, found))
    assert set(counts) == set(sizes)
    for size in sizes:
        wanted = min(draws, comb(free, size - fixed))
        assert counts[size] <= wanted
        assert nested or counts[size] == wanted


def test_nested_draws_are_chains_and_more_draws_keep_the_earlier_ones():
    names = {"sizes": [1, 2, 4, 8], "seed": 3}
    found = stacks({"subsets": {**names, "draws": 4, "nested": True}}, "rte")
    for small, large in ((1, 2), (2, 4), (4, 8)):
        outer = [set(subset) for subset in found if len(subset) == large]
        assert all(any(set(subset) <= other for other in outer) for subset in found if len(subset) == small)
    few, many = (stacks({"subsets": {**names, "draws": draws}}, "rte") for draws in (2, 5))
    assert set(few) < set(many)
    assert set(few) != set(stacks({"subsets": {**names, "draws": 2, "seed": 4}}, "rte"))


def test_draws_are_recorded_and_alike_for_all_targets():
    drawn = stacks({"subsets": {"sizes": [2, 3], "draws": 2, "seed": 0, "always": ["target"]}}, "rte")
    assert drawn == [("mrpc", "rte"), ("stsb", "rte"), ("sst2", "mnli", "rte"), ("cola", "mnli", "rte")]
    graph = expand({"scalearn": {"sources": {"subsets": {"sizes": [3], "draws": 4}}}}, targets=["cola", "rte"])
    by_target = {task: {job.config.sources for job in transfers(graph) if job.config.task == task} for task in ("glue/cola", "glue/rte")}
    assert by_target["glue/cola"] == by_target["glue/rte"]


def test_sources_of_the_sweep_are_what_subsets_are_drawn_from():
    sources = {"tasks": ["cola", "sst2", "mrpc"]}
    assert stacks({"leave_out": 2}, "rte", sources=sources) == [("cola",), ("sst2",), ("mrpc",)]
    own = stacks({"subsets": {"sizes": [2], "draws": 9, "always": ["target"]}}, "rte", sources=sources)
    assert own == [("rte", "cola"), ("rte", "sst2"), ("rte", "mrpc")]


QUALITIES = [{}, {"rows_kept": 0.01}, {"rows_kept": 0.25}, {"labels_shuffled": 0.5}]
UNEQUAL = {"sources": {"unequal": {"rows": [0.01, 0.25], "shuffled": 0.5}}}


def test_unequal_sources_have_each_quality_once_over_all_deals_and_whole_ones_are_everybodys():
    whole, poor = expand({"scalearn": {}}), expand({"scalearn": UNEQUAL})
    dealt = [job for job in transfers(poor) if job.config.task == "glue/rte"]
    assert {job.config.sources for job in dealt} == {ALL}
    seen = Counter((parent.source_name, _quality(parent)) for job in dealt for parent in job.parents)
    assert seen == {(name, json.dumps(quality)): 1 for name in ALL for quality in QUALITIES}
    assert {node for node in whole.nodes() if "/source/" in node} < set(poor.nodes())
    assert not set(dealt) & set(transfers(whole))
    assert "glue/roberta-base/source/adapter/rte/lr3e-04-seed0-kept0.01" in {job.path for job in poor}


def test_fewer_deals_are_the_first_ones_and_another_seed_deals_otherwise():
    def dealt(**keys: Any) -> set[str]:
        row = {"sources": {"unequal": {**UNEQUAL["sources"]["unequal"], **keys}}}
        return {job.node for job in transfers(expand({"scalearn": row}))}

    assert dealt(draws=2) < dealt() == dealt(draws=9)
    assert len(dealt()) == 4 * 2
    assert dealt(draws=2) != dealt(draws=2, seed=1)


def test_job_that_selects_reads_all_sources_and_what_is_known_of_them():
    graph = expand({"scalearn_pp": [{}, *({"sources": {"select": {"by": by, "top": 3}}} for by in ("logme", "text"))]})
    rated = [job for job in graph if job.config.stage == "transferability"]
    assert [job.config.task for job in rated] == ["glue/cola", "glue/rte"]  # for both measures together
    assert all(job.config.data[0].train_rows == 1000 for job in rated)
    assert len({job.parents[-1] for job in rated}) == 1
    assert rated[0].parents[-1].config.stage == "similarity"
    assert {data.max_length for data in rated[0].parents[-1].config.data} == {128}  # texts as other jobs read them
    chooses = [job for job in transfers(graph) if job.config.select is not None]
    assert {job.parent_names for job in chooses} == {(*ALL, "transferability")}
    assert len({job.node for job in transfers(graph)}) == 3 * 2
    assert "glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed0-logme3" in {job.path for job in chooses}
    few = expand({"scalearn_pp": {"sources": {"select": {"by": "logme", "top": 3}}}}, data={"train_rows": 200})
    assert {job.config.data[0].train_rows for job in few if job.config.stage == "transferability"} == {200}


def test_plain_jobs_keep_their_names_beside_jobs_that_select():
    plain, both = expand({"scalearn_pp": {}}), expand({"scalearn_pp": [{}, {"sources": {"select": {"by": "h_score", "top": 1}}}]})
    assert set(plain.nodes()) < set(both.nodes())


def test_omegas_of_a_job_that_selects_are_as_many_as_it_stacks():
    graph = expand({"scalearn_fixed": {"sources": {"select": {"by": "logme", "top": 2}}, "settings": {"omega": [0.5, 0.5]}}})
    assert {job.config.stacked for job in transfers(graph)} == {2}
    with pytest.raises(UserError, match="omega"):
        expand({"scalearn_fixed": {"sources": {"select": {"by": "logme", "top": 2}}, "settings": {"omega": [0.5] * 8}}})


def _quality(source: Job) -> str:
    data = source.config.data[0]
    named = {"rows_kept": data.rows_kept, "labels_shuffled": data.labels_shuffled}
    return json.dumps({name: value for name, value in named.items() if value is not None})


def test_all_errors_are_told_in_the_order_of_the_file_and_very_many_are_counted():
    text = "name: x\nbenchmark: glue\nbackbone: roberta-base\nmethods:\n" + "".join(
        f"  unknown_{number:02}: {{}}\n" for number in range(30)
    )
    with pytest.raises(UserError) as caught:
        Sweep.from_text(text)
    *told, rest = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in told] == [f"sweep.yaml, line {number}" for number in range(5, 25)]
    assert rest == "There are 10 more such errors."


def test_rows_of_short_forms_stay_apart_in_the_table(tmp_path: Path):
    methods = {
        "scalearn_fixed": {"sources": ["target", "sst2"], "grid": {"omega": [[0, 0.5], [0, 1]]}},
        "scalearn": {"zip": {"omega_dropout": [0, 0.3], "batch_size": [16, 32]}},
        "scalearn_pp": [{}, {"sources": {"leave_out": 1}}],
        "scalearn_uniform": [{}, {"sources": {"unequal": {"rows": 0.05}}}],
        "scalearn_uniform_pp": [{}, {"sources": {"select": {"by": "logme", "top": 1}}}],
    }
    document = {"name": "apart", "benchmark": "glue", "backbone": "roberta-base", "sources": {"tasks": ["rte", "sst2"]}, "methods": methods}
    sweep = Sweep.from_text(json.dumps(document | {"targets": ["rte"], "seeds": [0, 1]}))
    write_manifest(sweep, sweep.expand(), Store(tmp_path), "", None)
    table = analysis.benchmark_table(analysis.load(tmp_path, "apart"))
    assert [row.title for row in table.rows] == [
        "ScaLearn (omega_dropout=0)",
        "ScaLearn (omega_dropout=0.3)",
        "ScaLearnUniform (source_quality=none)",
        "ScaLearnUniform (source_quality=rte rows_kept=0.05)",
        "ScaLearnUniform (source_quality=sst2 rows_kept=0.05)",
        "ScaLearn++ (source_count=1, sources=rte)",
        "ScaLearn++ (source_count=1, sources=sst2)",
        "ScaLearn++ (source_count=2, sources=rte,sst2)",
        "ScaLearnUniform++ (select=by=logme,top=1)",
        "ScaLearnUniform++ (select=none)",
        *(f"ScaLearn (fixed) (omega={one},{two})" for one in ("0.0", "0.5") for two in ("0.0", "1.0")),
    ]
    assert {cell.wanted for row in table.rows for cell in row.cells} == {2}
