"""Source adapters that a sweep names by their place: who stacks them, what identifies them, and which are refused before anything runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from orchestrator.storage.store import Store
from scalearn.adapter_files import SEQ_BN
from scalearn.errors import UserError
from scalearn.runtime import Runtime
from tests.orchestrator.doubles import TRAIN

HIDDEN = 384  # of minilm

SWEEP = """\
name: external
benchmark: domains
backbone: minilm
targets: [apple]
sources:
  tasks: [apple, coachella]
  adapters: {mnli: adapters/mnli, coachella: adapters/mine}
methods: {scalearn: {}}
"""


def write_adapter(
    place: Path,
    weights: bytes = b"weights",
    hidden: int = HIDDEN,
    file: str = "adapter.safetensors",
    architecture: str = "",
    **fields: Any,
) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    config = {"config": {**SEQ_BN, **fields}, "hidden_size": hidden, "model_type": architecture, "name": place.name}
    (place / "adapter_config.json").write_text(json.dumps(config))
    (place / file).write_bytes(weights)
    return place


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "adapters/mnli")
    write_adapter(tmp_path / "adapters/mine", b"others")
    (tmp_path / "external.yaml").write_text(SWEEP)
    return tmp_path


def graph(*overrides: str) -> Graph:
    return Sweep.load("external.yaml", overrides).expand()


def transfer(*overrides: str) -> Job:
    (job,) = (job for job in graph(*overrides) if job.config.stage == "transfer")
    return job


def test_external_adapters_are_stacked_and_are_no_jobs():
    job = transfer()
    assert job.config.sources == ("apple", "coachella", "mnli")
    assert [parent.config.task for parent in job.parents] == ["domains/apple"]
    assert [adapter.name for adapter in job.config.external] == ["coachella", "mnli"]
    assert len(graph()) == 2


def test_sweep_may_stack_external_adapters_alone():
    job = transfer("sources.tasks=[]")
    assert job.config.sources == ("mnli", "coachella")
    assert job.parents == ()


def test_method_may_choose_among_tasks_target_and_external_adapters():
    assert transfer("methods={scalearn: {sources: [mnli, target]}}").config.sources == ("mnli", "apple")
    assert (
        transfer("methods={scalearn: {sources: [mnli, domains/coachella]}}").config.external == transfer("sources.tasks=[]").config.external
    )


def test_content_is_the_identity_and_the_place_is_not(place: Path):
    before = transfer()
    shutil.copytree(place / "adapters/mnli", place / "elsewhere/copy")
    assert transfer("sources.adapters.mnli=elsewhere/copy").node == before.node
    write_adapter(place / "elsewhere/copy", b"retrained")
    after = transfer("sources.adapters.mnli=elsewhere/copy")
    assert after.node != before.node
    assert after.path == before.path
    (place / "elsewhere/copy/adapter_config.json").write_text((place / "elsewhere/copy/adapter_config.json").read_text() + " ")
    assert transfer("sources.adapters.mnli=elsewhere/copy").node not in (before.node, after.node)


def test_directory_of_a_finished_job_stands_for_the_adapter_in_it(place: Path):
    shutil.copytree(place / "adapters/mnli", place / "job/adapter")
    assert transfer("sources.adapters.mnli=job").node == transfer().node


def test_hub_id_is_identified_by_id_and_revision_as_written():
    plain = transfer("sources.adapters.mnli=owner/adapter")
    assert plain.config.external[1].origin == "hub:owner/adapter@main"
    assert plain.node == transfer("sources.adapters.mnli=owner/adapter@main").node
    assert plain.node != transfer("sources.adapters.mnli=owner/adapter@v2").node


def test_names_and_order_of_the_stack_enter_the_identity():
    nodes = {
        transfer("sources.tasks=[]", "sources.adapters={a: adapters/mnli, b: adapters/mine}").node,
        transfer("sources.tasks=[]", "sources.adapters={b: adapters/mine, a: adapters/mnli}").node,
        transfer("sources.tasks=[]", "sources.adapters={a: adapters/mine, b: adapters/mnli}").node,
    }
    assert len(nodes) == 3


def test_sweep_without_external_adapters_keeps_its_nodes():
    """As they were before sweeps could name adapters."""
    plain = Sweep.from_text("name: a\nbenchmark: glue\nbackbone: roberta-base\ntargets: [rte]\nmethods: {scalearn: {}}\n").expand()
    assert next(job.node for job in plain if job.config.stage == "transfer") == KNOWN


KNOWN = "glue/roberta-base/transfer/scalearn/rte/lr6e-03-seed0-f1420cf616"


def test_worker_is_given_the_directories_of_jobs_and_of_external_adapters(place: Path):
    from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack  # Ray, which the other tests of this module do without

    store, jobs = Store(place / "runs"), graph()
    for job in jobs:
        parents = dict(zip(job.parent_names, (parent.node for parent in job.parents), strict=True))
        order = MemberOrder(job.node, job.config, {"node": job.node}, parents)
        run_pack(PackOrder((order,), str(store.root), TRAIN, Runtime(), place / "stop"))
        assert store.complete(job.node)
    (log,) = (store.directory(job.node) / "run.log" for job in jobs if job.config.stage == "transfer")
    seen = json.loads(log.read_text())["parents"]
    assert set(seen) == {"apple", "coachella", "mnli"}
    assert seen["mnli"] == str(place / "adapters/mnli")


def pickled(place: Path) -> None:
    (place / "adapters/mnli/adapter.safetensors").rename(place / "adapters/mnli/pytorch_adapter.bin")


WRONG = {
    "missing directory": (lambda place: None, ["sources.adapters.mnli=./nowhere"], "'mnli': ./nowhere is neither a directory nor a hub id"),
    "no configuration": (lambda place: (place / "adapters/mnli/adapter_config.json").unlink(), [], "'mnli': "),
    "no weights": (lambda place: (place / "adapters/mnli/adapter.safetensors").unlink(), [], "holds no adapter.safetensors"),
    "pickled weights": (pickled, [], "write allow_pickle: true if you trust it"),
    "another hidden size": (
        lambda place: write_adapter(place / "adapters/mnli", hidden=768),
        [],
        "'mnli' has hidden size 768, but the backbone has 384",
    ),
    "another width than the trained ones": (
        lambda place: write_adapter(place / "adapters/mnli", reduction_factor=8),
        [],
        "Source adapters 'apple' and 'mnli' are configured differently (reduction_factor 16 and 8)",
    ),
    "another width than another one": (
        lambda place: write_adapter(place / "adapters/mnli", reduction_factor=8),
        ["sources.tasks=[]"],
        "'mnli' and 'coachella' are configured differently",
    ),
    "another architecture": (
        lambda place: write_adapter(place / "adapters/mnli", architecture="roberta"),
        [],
        "'mnli' was trained on roberta, but the backbone is bert",
    ),
    "another architecture than another one": (
        lambda place: [write_adapter(place / "adapters" / name, architecture=name) for name in ("mnli", "mine")],
        ["sources.tasks=[]", "backbone=owner/model"],
        "'mnli' and 'coachella' were trained on different architectures (mnli and mine)",
    ),
    "no bottleneck": (lambda place: write_adapter(place / "adapters/mnli", mh_adapter=True), [], "mh_adapter: True"),
    "name of something else": (lambda place: None, ["sources.adapters={target: adapters/mnli}"], "'target' stands for something else"),
    "name that is no path": (lambda place: None, ["sources.adapters={../x: adapters/mnli}"], "adapter name '../x'"),
    "no source at all": (lambda place: None, ["sources={tasks: []}"], "name at least one source"),
    "unknown name in a method": (lambda place: None, ["methods={scalearn: {sources: [mnly]}}"], "Unknown task 'mnly'"),
    "no task to be similar to": (lambda place: None, ["methods={adaptersoup: {}}"], "Unknown task 'mnli' in benchmark domains"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_adapter_is_one_line_on_stderr_and_exit_code_2(case: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]):
    damage, overrides, sentence = WRONG[case]
    damage(place)
    sets = [part for override in overrides for part in ("--set", override)]
    assert main([command, "external.yaml", *sets]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err, output.err
    assert output.err.count("\n") == 1
    assert not (place / "runs").exists()


def test_pickled_weights_are_planned_where_the_sweep_allows_them(place: Path):
    pickled(place)
    with pytest.raises(UserError, match=r"sources.adapters|external.yaml"):
        graph()
    assert transfer("sources.allow_pickle=true").config.sources == ("apple", "coachella", "mnli")
