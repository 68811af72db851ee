"""From a sweep file to jobs: which jobs there are, with which values, and who feeds whom."""

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.schema import Optimisation
from orchestrator.definition.sweep import Sweep
from scalearn.config import OptimisationConfig
from scalearn.errors import UserError

BASE = """\
name: test
benchmark: glue
backbone: roberta-base
targets: [cola, rte]
sources: {tasks: [cola, rte, sst2]}
methods: {}
"""


def expand(methods: str, *overrides: str) -> Graph:
    return Sweep.from_text(BASE, overrides=[f"methods={methods}", *overrides]).expand()


def jobs(graph: Graph, method: str, task: str | None = None) -> list[Job]:
    return [job for job in graph if job.config.method == method and task in (None, job.config.task)]


def test_transfer_job_stacks_all_sources_in_order_with_the_targets_own_among_them():
    (job,) = jobs(expand("{scalearn: {}}"), "scalearn", "glue/rte")
    assert job.config.sources == ("cola", "rte", "sst2")
    assert [parent.config.task for parent in job.parents] == ["glue/cola", "glue/rte", "glue/sst2"]
    assert [parent.source_name for parent in job.parents] == list(job.config.sources)


def test_sources_default_to_the_whole_benchmark_in_the_papers_order():
    graph = expand("{scalearn: {}}", "sources.tasks=null")
    assert jobs(graph, "scalearn")[0].config.sources == ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def test_source_adapters_have_one_seed_whatever_the_transfer_seed():
    graph = expand("{scalearn: {}, scalearn_pp: {}}", "seeds=[3, 4]", "sources.seed=7")
    assert {job.config.seed for job in jobs(graph, "adapter")} == {7}
    assert Counter(map(graph.stage_of, graph.nodes())) == {"source": 3, "transfer": 8}


def test_adapter_row_shares_the_node_of_the_source_of_equal_seed():
    graph = expand("{adapter: {}, scalearn: {}}", "seeds=[0, 1]")
    assert [graph.stage_of(job.node) for job in jobs(graph, "adapter", "glue/rte")] == ["source", "single"]
    assert len(jobs(graph, "adapter", "glue/sst2")) == 1


def test_adapter_row_inherits_what_the_sources_are_trained_with():
    graph = expand(
        "{adapter: {}, scalearn: {}}", "training.source.epochs=3", "sources.settings.reduction_factor=8", "training.tasks.rte.epochs=4"
    )
    assert len(jobs(graph, "adapter")) == 3
    (rte,) = jobs(graph, "adapter", "glue/rte")
    assert rte.config.optimisation.epochs == 4
    assert rte.config.settings == {"reduction_factor": 8}


def test_published_values_apply_where_the_file_is_silent():
    graph = expand("{adapterfusion: {}, scalearn: {}, scalearn_uniform_pp: {}}")
    (adapter,) = jobs(graph, "adapter", "glue/rte")
    (fusion,) = jobs(graph, "adapterfusion", "glue/rte")
    (scalearn,) = jobs(graph, "scalearn", "glue/rte")
    (shared,) = jobs(graph, "scalearn_uniform_pp", "glue/rte")
    assert adapter.config.optimisation == OptimisationConfig(learning_rate=3e-4, epochs=30, patience=5)
    assert fusion.config.optimisation == OptimisationConfig(learning_rate=5e-5, epochs=30, patience=5)
    assert scalearn.config.optimisation == OptimisationConfig(learning_rate=6e-3, epochs=30, patience=None)
    assert scalearn.config.settings["omega_dropout"] == 0.3
    assert shared.config.settings["omega_dropout"] == 0.0


def test_most_specific_value_wins():
    graph = expand(
        "{scalearn: {epochs: 6}, scalearn_pp: {}, adapterfusion: {patience: null}}",
        "training={epochs: 2, patience: 9, transfer: {epochs: 3}, tasks: {rte: {epochs: 4, transfer: {epochs: 5}}}}",
    )
    assert jobs(graph, "scalearn", "glue/rte")[0].config.optimisation.epochs == 6
    assert jobs(graph, "scalearn_pp", "glue/rte")[0].config.optimisation.epochs == 5
    assert jobs(graph, "scalearn_pp", "glue/cola")[0].config.optimisation.epochs == 3
    assert jobs(graph, "adapter", "glue/rte")[0].config.optimisation.epochs == 4
    assert jobs(graph, "adapter", "glue/cola")[0].config.optimisation.epochs == 2
    assert jobs(graph, "scalearn", "glue/rte")[0].config.optimisation.patience == 9
    assert jobs(graph, "adapterfusion", "glue/rte")[0].config.optimisation.patience is None


def test_lists_make_one_job_for_each_combination():
    graph = expand("{scalearn: {learning_rate: [1e-3, 6e-3], settings: {omega_dropout: [0, 0.3]}, seeds: {default: [0], rte: [0, 1]}}}")
    assert len(jobs(graph, "scalearn", "glue/rte")) == 8
    assert len(jobs(graph, "scalearn", "glue/cola")) == 4
    assert len(set(graph.nodes())) == len(graph)


def test_method_may_have_rows_with_other_sources_and_the_target_by_name():
    rows = "[{sources: [sst2], settings: {omega: [[0], [0.5], [1]]}}, {sources: [target, sst2], settings: {omega: [0.5, 0.5]}}]"
    graph = expand(f"{{scalearn_fixed: {rows}}}")
    assert [job.config.settings["omega"] for job in jobs(graph, "scalearn_fixed", "glue/rte")] == [(0.0,), (0.5,), (1.0,), (0.5, 0.5)]
    assert [job.config.sources for job in jobs(graph, "scalearn_fixed", "glue/cola")][-1] == ("cola", "sst2")


def test_few_shot_target_stacks_its_own_few_shot_adapter_beside_full_ones():
    graph = expand("{scalearn: {}, adapter: {}}", "data.few_shot=[4, 16]", "seeds=[0, 1]")
    job = next(job for job in jobs(graph, "scalearn", "glue/rte") if job.config.data[0].few_shot == 16)
    assert [(parent.source_name, parent.config.data[0].few_shot) for parent in job.parents] == [("cola", None), ("rte", 16), ("sst2", None)]
    few, full = job.config.optimisation, job.parents[0].config.optimisation
    assert (few.max_steps, few.patience, few.selection) == (1000, 20, "metric")
    assert (full.max_steps, full.patience, full.selection) == (None, 5, "loss")
    assert few.epochs * 1 >= 1000
    assert Counter(job.config.data[0].few_shot for job in jobs(graph, "adapter", "glue/rte")) == {None: 1, 4: 2, 16: 2}


def test_train_share_is_the_targets_alone():
    graph = expand("{scalearn: {}}", "data.train_share=[0.05, 0.15]")
    assert {job.config.data[0].train_share for job in jobs(graph, "scalearn")} == {0.05, 0.15}
    assert {job.config.data[0].train_share for job in jobs(graph, "adapter", "glue/sst2")} == {None}


def test_sizes_lengths_and_templates_are_per_task_everywhere():
    graph = expand("{scalearn: {}}", "data={train_rows: {default: 100, rte: 20}, max_length: {cola: 64}, evaluation_rows: 50}")
    rows = {job.config.task: job.config.data[0].train_rows for job in graph}
    assert rows == {"glue/cola": 100, "glue/rte": 20, "glue/sst2": 100}
    assert {job.config.task: job.config.data[0].max_length for job in graph}["glue/cola"] == 64
    assert {job.config.data[0].evaluation_rows for job in graph} == {50}


def test_sweeps_about_different_benchmarks_share_source_adapters():
    glue = Sweep.from_text(BASE, overrides=["methods={scalearn: {}}"]).expand()
    both = Sweep.from_text(BASE, overrides=["benchmark=gsg", "methods={scalearn: {}}"]).expand()
    adapters = {job.node for job in jobs(glue, "adapter")}
    assert adapters == {job.node for job in jobs(both, "adapter")}
    assert {job.config.benchmark for job in jobs(both, "scalearn")} == {"gsg"}


def test_sweep_of_too_many_jobs_is_refused_by_their_number_before_any_is_made(monkeypatch: pytest.MonkeyPatch):
    def never(*arguments: object) -> None:
        raise AssertionError("expanded")

    numbers = list(range(20_000))
    text = f"""
name: many
benchmark: domains
backbone: minilm
targets: [apple, bbc]
sources: {{tasks: [apple]}}
methods:
  scalearn: {{learning_rate: {[1e-5 * (number + 1) for number in numbers]}, settings: {{omega_init_scale: {numbers}}}}}
  adapter: {{}}
"""
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.definition.check_rows.setting_points", never)
        with pytest.raises(UserError, match=r"line 7: 'methods' .* are 16,000,000,010 jobs: at most 100,000\.$"):
            Sweep.from_text(
                text, overrides=["seeds={default: [0, 1], bbc: [0, 1, 2, 3, 4, 5]}", "methods.scalearn.seeds=" + str(numbers[:20])]
            )
    few = Sweep.from_text(text, overrides=["methods.scalearn={learning_rate: [1e-3, 2e-3], settings: {omega_dropout: [0.0, 0.3, 0.5]}}"])
    assert len(few.expand()) == 14


def test_own_task_defined_in_the_file_becomes_jobs(tmp_path: Path):
    directory = tmp_path / "mine" / "spam"
    directory.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (directory / f"{split}.csv").write_text("text,label\nhello,ham\n")
    text = "name: own\nbenchmark: mine\nbackbone: minilm\ntasks: {spam: {columns: text}}\nmethods: {scalearn: {}}\n"
    (job,) = jobs(Sweep.from_text(text, overrides=[f"data.root={tmp_path}"]).expand(), "scalearn")
    assert job.config.task == "mine/spam"
    assert job.config.data[0].own == '{"columns":"text"}'


def test_overrides_apply_in_order_and_text_stays_the_files():
    sweep = Sweep.from_text(BASE, overrides=["methods.scalearn={}", "methods.scalearn.epochs=3", "methods.scalearn.epochs=4"])
    assert sweep.methods["scalearn"][0].epochs == 4
    assert sweep.text == BASE
    assert sweep.overrides[-1] == "methods.scalearn.epochs=4"


def test_schema_offers_every_optimisation_field_with_its_default():
    offered = {name: info.default for name, info in Optimisation.model_fields.items() if name != "learning_rate"}
    assert offered == {item.name: item.default for item in fields(OptimisationConfig) if item.name != "learning_rate"}


def test_file_is_read_by_path_and_shipped_sweep_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.yaml").write_text(BASE.replace("methods: {}", "methods: {scalearn: {}}"))
    assert Sweep.load(tmp_path / "mine.yaml").file == str(tmp_path / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert Sweep.load("mine.yaml").name == "test"
    assert Sweep.load("quickstart").name == "quickstart"


def test_relative_backbone_directory_is_found_from_the_workers_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 99, "max_position_embeddings": 128}
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text(json.dumps({"model_type": "bert", **fields}))
    (tmp_path / "tiny/model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    small = ("backbone=./tiny", "sources.tasks=[cola]", "targets=[cola]", "data.max_length=64")
    graph = expand("{adaptersoup: {settings: {sentence_encoder: ./tiny}}}", *small)
    assert {job.config.backbone for job in graph} == {str(tmp_path / "tiny")}
    assert (
        graph.nodes()[:2] == expand("{adaptersoup: {settings: {sentence_encoder: tiny}}}", *small, f"backbone={tmp_path}/tiny").nodes()[:2]
    )


def test_budget_and_webhook_are_no_part_of_any_job():
    plain = expand("{scalearn: {}}").nodes()
    assert expand("{scalearn: {}}", "budget={hours: 2, device_hours: 8.5}", "notify={form: slack, webhook: https://a/b}").nodes() == plain


def test_budget_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"'budget.hours' must be greater than 0"):
        expand("{scalearn: {}}", "budget={hours: 0}")
