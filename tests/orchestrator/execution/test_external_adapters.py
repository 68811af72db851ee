"""Source adapters that a sweep names by their place: who stacks them, what identifies them, and which are refused before anything runs."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import SEQ_BN
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import TRAIN

HIDDEN, LAYERS = 384, 6  # of minilm

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


def tensors(name: str, value: float = 0.0, layers: int = LAYERS, hidden: int = HIDDEN, width: int = HIDDEN // 16) -> dict[str, Any]:
    """A sequential bottleneck of the library, by the names of its tensors."""
    shapes = {"adapter_down.0.weight": (width, hidden), "adapter_down.0.bias": (width,), "adapter_up.weight": (hidden, width)}
    shapes |= {"adapter_up.bias": (hidden,)}
    places = [f"bert.encoder.layer.{number}.output.adapters.{name}" for number in range(layers)]
    return {f"{place}.{part}": np.full(shape, value, np.float32) for place in places for part, shape in shapes.items()}


def write_adapter(
    place: Path,
    value: float = 0.0,
    hidden: int = HIDDEN,
    file: str = "adapter.safetensors",
    architecture: str = "",
    **fields: Any,
) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    config = {"config": {**SEQ_BN, **fields}, "hidden_size": hidden, "model_type": architecture, "name": place.name}
    (place / "adapter_config.json").write_text(json.dumps(config))
    reduction = fields.get("reduction_factor", 16)
    (place / file).write_bytes(save(tensors(place.name, value, hidden=hidden, width=hidden // reduction)))
    return place


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "adapters/mnli")
    write_adapter(tmp_path / "adapters/mine", 1.0)
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
    shutil.copytree(place / "adapters/mnli", place / "elsewhere/mnli")
    assert transfer("sources.adapters.mnli=elsewhere/mnli").node == before.node
    write_adapter(place / "elsewhere/mnli", 2.0)
    after = transfer("sources.adapters.mnli=elsewhere/mnli")
    assert after.node != before.node
    assert after.path == before.path
    (place / "elsewhere/mnli/adapter_config.json").write_text((place / "elsewhere/mnli/adapter_config.json").read_text() + " ")
    assert transfer("sources.adapters.mnli=elsewhere/mnli").node not in (before.node, after.node)


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


def weights(place: Path) -> Path:
    return place / "adapters/mnli/adapter.safetensors"


def configuration(place: Path) -> Path:
    return place / "adapters/mnli/adapter_config.json"


def rewrite(place: Path, held: dict[str, Any]) -> None:
    weights(place).write_bytes(save(held))


def fields(place: Path, **changes: Any) -> None:
    saved = json.loads(configuration(place).read_text())
    saved["config"] |= changes
    configuration(place).write_text(json.dumps(saved))


def overlapping() -> bytes:
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]} for name, at in (("a", 0), ("b", 2))}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(6)


def instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def bind(path: Path) -> None:
    short = os.path.relpath(path)  # the name of a socket has a limit
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(short)


WRONG: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
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
    "an invertible part in the weights": (
        lambda place: rewrite(place, {**tensors("mnli"), "bert.invertible_lang_adapters.mnli.F.0.bias": np.zeros(96, np.float32)}),
        [],
        "'bert.invertible_lang_adapters.mnli.F.0.bias' would not be used",
    ),
    "prefixes in the weights": (
        lambda place: rewrite(place, {**tensors("mnli"), "bert.prefix_tunings.mnli.wte.weight": np.zeros((2, 4), np.float32)}),
        [],
        "'bert.prefix_tunings.mnli.wte.weight' would not be used",
    ),
    "a second adapter in the weights": (lambda place: rewrite(place, {**tensors("mnli"), **tensors("other")}), [], "and 23 more would not"),
    "layers that the backbone does not have": (
        lambda place: rewrite(place, tensors("mnli", layers=7)),
        [],
        "there is an adapter in 7 layers, but the backbone has 6",
    ),
    "layers that are missing": (lambda place: rewrite(place, tensors("mnli", layers=5)), [], "in 5 layers, but the backbone has 6"),
    "weights of another width": (lambda place: rewrite(place, tensors("mnli", width=48)), [], "but its configuration says [24]"),
    "weights of no size": (lambda place: rewrite(place, tensors("mnli", width=0)), [], "but its configuration says [24]"),
    "whole numbers": (
        lambda place: rewrite(place, {name: each.astype(np.int64) for name, each in tensors("mnli").items()}),
        [],
        "is of type I64, which is none of F64, F32, F16, BF16",
    ),
    "ten bytes of weights": (lambda place: weights(place).write_bytes(b"0123456789"), [], "header of"),
    "a width that no file has": (
        lambda place: (fields(place, reduction_factor=1e-9), weights(place).write_bytes(b"0123456789")),
        [],
        "reduction_factor: 1e-09, an adapter that no file holds",
    ),
    "a header that claims a gigabyte": (
        lambda place: weights(place).write_bytes((2**30).to_bytes(8, "little") + b"{}"),
        [],
        "claims a header of 1073741824 bytes",
    ),
    "tensors that overlap": (lambda place: weights(place).write_bytes(overlapping()), [], "cannot be used"),
    "50 GiB of nothing": (lambda place: os.truncate(weights(place), 50 * 2**30), [], "but its configuration explains at most"),
    "50 GiB of nothing, pickled": (
        lambda place: (pickled(place), os.truncate(place / "adapters/mnli/pytorch_adapter.bin", 50 * 2**30)),
        ["sources.allow_pickle=true"],
        "but its configuration explains at most",
    ),
    **{
        f"configuration: {what}": (
            lambda place, text=text: configuration(place).write_text(text),
            [],
            f"is no adapter configuration ({why}",
        )
        for what, text, why in (
            ("20,000 levels", "[" * 20_000 + "]" * 20_000, "it is nested too deeply"),
            ("20,000 levels of mappings", '{"a":' * 20_000 + "1" + "}" * 20_000, "it is nested too deeply"),
            ("a list", "[]", ""),
            ("a key twice", '{"config": {}, "config": {}, "hidden_size": 384}', "it says 'config' twice"),
            ("a number of 5,000 digits", f'{{"config": {{}}, "hidden_size": {"9" * 5_000}}}', ""),
            ("a hidden size of 4,000 digits", f'{{"config": {{}}, "hidden_size": {"9" * 4_000}}}', "config must be"),
            ("no number", '{"config": {}, "hidden_size": NaN}', "config must be"),
            ("a word for a number", '{"config": {}, "hidden_size": "384"}', "config must be"),
            ("a list for a mapping", '{"config": [], "hidden_size": 384}', "config must be"),
            ("8 MiB", " " * 2**23 + "{}", "it has more than"),
            ("no text", "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"), ""),
        )
    },
    "a directory for the configuration": (lambda place: instead(configuration(place), Path.mkdir), [], "holds no adapter_config.json"),
    "a pipe for the configuration": (lambda place: instead(configuration(place), os.mkfifo), [], "holds no adapter_config.json"),
    "a pipe for the weights": (lambda place: instead(weights(place), os.mkfifo), [], "holds no adapter.safetensors"),
    "a socket for the weights": (lambda place: instead(weights(place), bind), [], "holds no adapter.safetensors"),
    "a link to itself": (
        lambda place: instead(configuration(place), lambda path: path.symlink_to(path)),
        [],
        "holds no adapter_config.json",
    ),
    "an endless device for the weights": (lambda place: instead(weights(place), lambda path: path.symlink_to("/dev/zero")), [], "holds no"),
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


def test_old_task_adapter_with_the_key_and_without_an_invertible_part_is_accepted(place: Path):
    fields(place, invertible_adapter={"block_type": "nice"}, attention_type="sent-lvl-dynamic", new_attention_norm=False)
    renamed = {name.replace(".adapters.", ".layer_text_task_adapters."): each for name, each in tensors("mnli").items()}
    rewrite(place, {**renamed, "heads.mnli.1.weight": np.zeros((2, HIDDEN), np.float32)})
    assert transfer().config.sources == ("apple", "coachella", "mnli")


def test_pickled_weights_are_planned_where_the_sweep_allows_them(place: Path):
    pickled(place)
    with pytest.raises(UserError, match=r"sources.adapters|external.yaml"):
        graph()
    assert transfer("sources.allow_pickle=true").config.sources == ("apple", "coachella", "mnli")
