"""The sweeps that the package ships: what they plan, and that planning stays light."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.definition.sweep import Sweep, shipped_sweeps
from orchestrator.watching.plan import plan
from scalearn.methods.registry import METHODS
from scalearn.tasks import benchmark_tasks

TWO_STAGE = ("adapterfusion", "scalearn", "scalearn_uniform", "scalearn_pp", "scalearn_uniform_pp")
BASELINES = ("full_ft", "propetl", "compacter_pp", "ia3")
JOINT = ("full_ft_m", "adapter_m", "propetl_m", "hyperformer", "hyperformer_pp")

PAPER = {
    # sweep: source jobs, jobs of each two-stage method, further adapter baselines
    "glue": (8, 52, 44),
    "glue_large": (8, 24, 16),
    "super_glue": (8, 66, 58),
    "super_glue_large": (8, 24, 16),
    "humset": (5, 15, 10),
    "humset_large": (5, 15, 10),
    "gsg": (15, 108, 93),
    "gsg_large": (15, 45, 30),
    "few_shot": (40, 160, 128),  # 8 full and 8 x 4 few-shot source adapters; 8 tasks x 4 sizes x 5 seeds
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_sweep_plans_its_published_number_of_jobs(name: str):
    sources, each, baselines = PAPER[name]
    jobs = plan(name, Sweep.load(name).expand()).to_json()["jobs"]
    if name == "few_shot":
        assert jobs["by_stage"] == {"source": sources, "single": baselines, "transfer": each * len(TWO_STAGE)}
        assert jobs["by_method"] == dict.fromkeys(TWO_STAGE, each)
    else:
        two_stage = (*TWO_STAGE, "adaptersoup")
        assert jobs["by_stage"] == {
            "source": sources,
            "single": baselines + each * len(BASELINES),
            "joint": 3 * len(JOINT),
            "similarity": 1,
            "transfer": each * len(two_stage),
        }
        assert jobs["by_method"] == dict.fromkeys(two_stage, each)
    assert jobs["by_state"] == {"cached": 0, "pending": jobs["total"]}


def test_interference_plans_nested_subsets_with_and_without_the_targets_own():
    jobs = [job for job in Sweep.load("interference").expand() if job.config.stage == "transfer"]
    counts = Counter((len(job.config.sources), job.config.task.partition("/")[2] in job.config.sources) for job in jobs)
    # 8 tasks x 3 seeds, times 5 draws unless there is only one subset
    assert {size: counts[size, True] for size in (1, 2, 4, 8)} == {1: 24, 2: 120, 4: 120, 8: 24}
    assert {size: counts[size, False] for size in (1, 2, 4, 7)} == {1: 120, 2: 120, 4: 120, 7: 24}
    assert len(jobs) == sum(counts.values()) == 672


def test_ladder_plans_three_seeds_of_each_rung_on_the_same_sources():
    graph = Sweep.load("ladder").expand()
    jobs = plan("ladder", graph).to_json()["jobs"]
    rungs = ("scalearn_fixed", *TWO_STAGE, "scalearn_gated", "sources_unfrozen")
    assert jobs["by_stage"] == {"source": 8, "single": 16 + 24, "transfer": 24 * len(rungs)}
    assert jobs["by_method"] == dict.fromkeys(rungs, 24)
    assert len({job.parents for job in graph if job.config.stage == "transfer"}) == 1
    assert {job.config.settings["omega"] for job in graph if job.config.method == "scalearn_fixed"} == {(2 / 8,) * 8}


def test_architectures_plans_the_same_rows_on_five_encoders():
    jobs = list(Sweep.load("architectures").expand())
    counts = Counter((job.config.backbone, job.config.stage) for job in jobs)
    assert set(counts.values()) == {8 * 3, 7 * 8 * 3}
    assert len({job.config.backbone for job in jobs}) == 5


def test_leave_one_out_plans_the_whole_stack_and_each_that_lacks_one():
    jobs = plan("leave_one_out", Sweep.load("leave_one_out").expand()).to_json()["jobs"]
    assert jobs["by_stage"] == {"source": 8, "transfer": 8 * 3 * (1 + 8)}


def test_compositions_compare_on_the_sources_of_glue_and_choose_among_each_alone():
    graph = Sweep.load("compositions").expand()
    glue = Sweep.load("glue").expand()
    ours, theirs = ({node for node in each.nodes() if each.stage_of(node) == "source"} for each in (graph, glue))
    assert ours == theirs
    best = [job for job in graph if job.config.method == "best_source"]
    assert {len(job.parents) for job in best} == {1}
    assert len({(job.config.task, job.config.seed, job.config.sources) for job in best}) == len(best) == 52 * 8
    counts = Counter(job.config.method for job in graph if job.config.stage == "transfer")
    once = ("adapterfusion", "adaptersoup", "source_average", "lorahub", *TWO_STAGE[1:])
    assert counts == {"best_source": 416, "task_arithmetic": 156, "ties": 312, "dare_ties": 312, **dict.fromkeys(once, 52)}


def test_glue_optimisation_is_the_published_one():
    published = {
        "full_ft": (2e-5, 5),
        "adapter": (3e-4, 5),
        "propetl": (1e-3, 5),
        "compacter_pp": (3e-3, 5),
        "ia3": (5e-3, 5),
        "adapterfusion": (5e-5, 5),
        "adaptersoup": (3e-4, 5),
    }
    for job in Sweep.load("glue").expand():
        if job.config.stage in ("joint", "similarity"):
            continue
        optimisation = job.config.optimisation
        assert (optimisation.learning_rate, optimisation.patience) == published.get(job.config.method, (6e-3, None))
        assert (optimisation.batch_size, optimisation.epochs, optimisation.selection) == (32, 30, "loss")
        assert (optimisation.weight_decay, optimisation.warmup) == (0.1 if job.config.method == "propetl" else 0, 0)


@pytest.mark.parametrize("name", ["glue", "super_glue", "humset", "gsg_large"])
def test_joint_optimisation_is_the_published_one(name: str):
    sweep = Sweep.load(name)
    joint = [job for job in sweep.expand() if job.config.stage == "joint"]
    assert {job.config.method for job in joint} == set(JOINT)
    for job in joint:
        optimisation = job.config.optimisation
        assert optimisation.learning_rate == (2e-5 if job.config.method == "full_ft_m" else 3e-4)
        assert (optimisation.max_steps, optimisation.evaluate_every, optimisation.patience) == (375_000, 7_500, 10)
        assert (optimisation.warmup, optimisation.temperature, optimisation.selection) == (0.1, 1.0, "loss")
        assert len(job.tasks) == len(set(job.tasks)) == len(benchmark_tasks(sweep.benchmark))


@pytest.mark.parametrize("name", ["probing", "probing_pairs"])
def test_probing_learns_its_heads_as_published(name: str):
    probes = [job.config.optimisation for job in Sweep.load(name).expand() if job.config.method == "scalearn_fixed"]
    assert {(each.learning_rate, each.patience, each.epochs, each.selection) for each in probes} == {(3e-4, 5, 30, "loss")}


def test_one_similarity_job_serves_all_soups_of_a_sweep():
    graph = Sweep.load("glue").expand()
    (similarity,) = [job for job in graph if job.config.stage == "similarity"]
    assert similarity.config.backbone == "sentence-transformers/all-mpnet-base-v2"
    assert {job.config.method for job in map(graph.job, graph.children(similarity.node))} == {"adaptersoup"}
    assert len(graph.children(similarity.node)) == 52
    soup = graph.job(graph.children(similarity.node)[0])
    assert soup.parent_names == (*soup.config.sources, "similarity")


def test_quickstart_all_runs_every_method_of_the_registry():
    assert set(Sweep.load("quickstart_all").methods) == set(METHODS)


def test_record_takes_three_epochs_in_the_transfer_stage_only():
    single = [job for job in Sweep.load("super_glue").expand() if len(job.tasks) == 1]
    epochs = {(job.config.task, job.config.stage): job.config.optimisation.epochs for job in single}
    assert epochs.pop(("super_glue/record", "transfer")) == 3
    assert set(epochs.values()) == {30}


def test_lengths_are_the_papers():
    training = [job for job in Sweep.load("gsg").expand() if job.config.stage != "similarity"]
    lengths = {data.task: data.max_length for job in training for data in job.config.data}
    assert lengths.pop("super_glue/multirc") == 324
    assert lengths.pop("super_glue/record") == 256
    assert set(lengths.values()) == {128}


def test_humset_picks_the_best_epoch_by_its_metric():
    picked = {job.config.stage: job.config.optimisation.selection for job in Sweep.load("humset").expand()}
    assert {stage for stage, selection in picked.items() if selection == "metric"} == {"source", "single", "transfer"}


def test_gsg_reuses_the_source_adapters_of_both_benchmarks():
    def adapters(name: str) -> set[str]:
        graph = Sweep.load(name).expand()
        return {node for node in graph.nodes() if graph.stage_of(node) == "source"}

    assert adapters("gsg") == (adapters("glue") | adapters("super_glue")) - {node for node in adapters("super_glue") if "/rte/" in node}


def test_quickstart_compares_six_methods_over_three_seeds_with_two_learning_rates_each():
    sweep = Sweep.load("quickstart")
    graph = sweep.expand()
    assert list(sweep.methods) == ["adapter", *TWO_STAGE]
    targets = {job.config.task for job in graph if job.config.stage == "transfer"}
    trials = Counter((job.config.method, job.config.task) for job in graph if job.config.task in targets)
    assert trials == {(method, task): 6 for method in sweep.methods for task in targets}
    assert Counter(map(graph.stage_of, graph.nodes()))["source"] == 6


def test_quickstart_on_loras_stacks_those_of_all_six_domains():
    sweep = Sweep.load("quickstart_lora")
    graph = sweep.expand()
    assert list(sweep.methods) == ["lora", *(key for key in TWO_STAGE if key.startswith("scalearn"))]
    for job in graph:
        if job.config.stage == "transfer":
            assert [parent.config.method for parent in job.parents] == ["lora"] * 6
            assert job.config.source_method == "lora"
    assert Counter(map(graph.stage_of, graph.nodes()))["source"] == 6
    plain = Sweep.load("quickstart").expand()
    assert len(graph) == len(plain) - 18, "as the quickstart, without AdapterFusion"


def test_glue_on_a_decoder_stacks_the_loras_that_it_reports():
    graph = Sweep.load("glue_llama").expand()
    jobs = plan("glue_llama", graph).to_json()["jobs"]
    assert jobs["by_stage"] == {"source": 8, "single": 16, "similarity": 1, "transfer": 5 * 24}
    stacked = {parent.config.method for job in graph if job.config.stage == "transfer" for parent in job.parents}
    assert stacked == {"lora", "sentence_similarity"}


@pytest.mark.parametrize("name", shipped_sweeps())
def test_no_row_of_a_shipped_sweep_is_tuned_more_than_another(name: str):
    rows = [row for rows in Sweep.load(name, ["data.root=null"]).methods.values() for row in rows]
    assert len({len(row.learning_rate) if isinstance(row.learning_rate, tuple) else 1 for row in rows}) == 1


@pytest.mark.parametrize("name", ["glue_smoke", "minilm_glue", "all_tasks_smoke"])
def test_local_sweep_plans_from_local_files(name: str, shared: Path):
    graph = Sweep.load(name, [f"data.root={shared / 'benchmarks'}"]).expand()
    assert all(data.origin.startswith("files:sha256-") for job in graph for data in job.config.data)


def test_all_tasks_smoke_names_every_task_that_has_rows(shared: Path):
    root = shared / "benchmarks"
    present = {f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()}
    graph = Sweep.load("all_tasks_smoke", [f"data.root={root}"]).expand()
    for stage in ("source", "transfer"):
        assert {job.config.task for job in graph if job.config.stage == stage} == present


def test_each_sweep_opens_with_the_question_it_answers(repository: Path):
    files = sorted((repository / "sweeps").glob("*.yaml"))
    assert {file.stem for file in files} == set(shipped_sweeps())
    for file in files:
        schema, *question = file.read_text(encoding="utf-8").splitlines()[:3]
        assert schema == "# yaml-language-server: $schema=../docs/sweep.schema.json"
        assert any(line.startswith("#") for line in question), file.name


def test_planning_imports_nothing_heavy_and_touches_no_network():
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("planning opened a socket")
socket.socket.connect = refuse
from orchestrator.definition.sweep import Sweep
from orchestrator.watching.plan import plan
print(len(plan("glue", Sweep.load("glue").expand()).jobs))
heavy = {"torch", "ray", "transformers", "datasets", "mlflow", "adapters", "accelerate", "pandas", "pyarrow", "numpy"}
assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "588"
