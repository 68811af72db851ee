"""A training function that sleeps, writes what training writes, and misbehaves on demand; and small graphs for it.

What a job does is read from `behaviour.json` in the store's root: a list of [regular expression on the node, {key: value}], the last
match of a key wins. Keys: `seconds` per epoch, `epochs`, `loss` of the first one, `error` (a member's own failure), `crash` (raise out
of the function), and `die`: {"epoch": n, "times": k}: SIGKILL to the worker after epoch n or the first one
after it, in the first k attempts; and `hold`: {"epoch": n, "until": name}: wait before epoch n until the store's root has such a file.
`fits`: raise `OutOfMemory` out of the function in a pack of more jobs than that.
`quiet`: report nothing; look as often whether to stop. `looks`: look before each epoch is written down, as training does between passes.
`saves`: write a checkpoint after each so many epochs only, and when asked to stop, as training does in a long epoch.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph, Job
from scalearn.config import DataConfig, JobConfig, OptimisationConfig, Setting
from scalearn.training.pack import Outcome, OutOfMemory, PackMember, Report, Stop
from scalearn.training.runtime import Runtime

TRAIN = "tests.orchestrator.helpers.doubles:train"


def behave(store: Store, *rules: tuple[str, dict[str, Any]]) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    beside = store.root / "behaviour.writing"
    beside.write_text(json.dumps(rules))
    beside.replace(store.root / "behaviour.json")  # a job that begins at this moment must not read half of it


def source(task: str, seed: int = 0) -> Job:
    return make_job("source", "adapter", task, seed)


def transfer(task: str, sources: Sequence[Job], seed: int = 0, **settings: Setting) -> Job:
    return make_job("transfer", "scalearn", task, seed, tuple(sources), settings)


def make_job(
    stage: Any, method: str, task: str, seed: int = 0, parents: tuple[Job, ...] = (), settings: dict[str, Setting] | None = None
) -> Job:
    config = JobConfig(
        benchmark="toy",
        stage=stage,
        method=method,
        data=(DataConfig(task=f"toy/{task}", origin="package:toy==1", train_rows=100),),
        backbone="minilm",
        backbone_origin="package:m==1",
        optimisation=OptimisationConfig(learning_rate=6e-3),
        seed=seed,
        sources=tuple(parent.source_name for parent in parents),
        settings=settings or {},
    )
    return Job(config, parents)


def two_stages(sources: int = 3, targets: int = 4) -> Graph:
    """Targets read two sources each, round about."""
    first = [source(f"s{number}") for number in range(sources)]
    pairs = [(first[number % sources], first[(number + 1) % sources]) for number in range(targets)]
    return Graph([transfer(f"t{number}", pair) for number, pair in enumerate(pairs)])


def run_jobs(graph: Graph, store: Store) -> None:
    """Train what can be trained, in order and without Ray's processes, and mark the graph accordingly."""
    from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack  # Ray, which the workers' side of this module does not need

    for job in graph:
        if all(graph.states[parent.node] == "succeeded" for parent in job.parents):
            parents = {parent.source_name: parent.node for parent in job.parents}
            order = MemberOrder(job.node, job.config, {"node": job.node}, parents)
            run_pack(PackOrder((order,), str(store.root), TRAIN, Runtime(), store.root / "stop"))
            graph.mark(job.node, "succeeded" if store.complete(job.node) else "failed")


def train(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    for member in pack:
        if len(pack) > _behaviour(*_place(member.directory)).get("fits", len(pack)):
            raise OutOfMemory("Memory does not hold these jobs together.")
    return [_train_one(member, runtime, report, len(pack)) for member in pack]


def _train_one(member: PackMember, runtime: Runtime, report: Report, together: int) -> Outcome:
    node, root = _place(member.directory)
    behaviour = _behaviour(node, root)
    external = {adapter.name for adapter in member.config.external}
    for name, parent in member.parents.items():
        assert name in external or (parent / "SUCCESS.json").is_file(), f"{name} was not committed when {node} started"
    if "crash" in behaviour:
        raise RuntimeError(behaviour["crash"])
    attempt = json.loads((member.directory / "job.json").read_text())["attempts"]
    marker = member.directory / "checkpoint" / "epoch"
    done = int(marker.read_text()) if marker.exists() else 0
    epochs = behaviour.get("epochs", 2)
    ray = sys.modules.get("ray")
    with (member.directory / "run.log").open("a") as log:
        facts = {"machine": ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else None}
        facts |= {"pid": os.getpid(), "from": done, "threads": runtime.threads, "pack": together, "time": time.time()}
        facts["devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        print(json.dumps({**facts, "parents": {name: str(parent) for name, parent in member.parents.items()}}), file=log)
    for epoch in range(done + 1, epochs + 1):
        hold = behaviour.get("hold")
        while hold and epoch == hold["epoch"] and not (root / hold["until"]).exists():
            time.sleep(0.05)
            _look(behaviour, runtime, marker, epoch - 1)
        time.sleep(behaviour.get("seconds", 0.01))
        _look(behaviour, runtime, marker, epoch - 1)
        loss = behaviour.get("loss", 1.0) / epoch
        record = {"epoch": epoch, "step": 10 * epoch, "time": time.time(), "seconds": 0.1 * epoch, "learning_rate": 6e-3}
        record |= {"train_loss": loss, "validation": {"loss": loss, "accuracy": 1 - loss / 2}}
        with (member.directory / "history.jsonl").open("a") as history:
            history.write(json.dumps(record) + "\n")
        if epoch % behaviour.get("saves", 1) == 0:
            _save(marker, epoch)
        if behaviour.get("quiet"):
            if runtime.should_stop is not None and runtime.should_stop():
                raise Stop
            continue
        die = behaviour.get("die")
        if die and epoch >= die["epoch"] and attempt <= die["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if report(member, record):
            _write_result(member, epoch, together, stopped_by="asha")
            return Outcome(member)
    if "error" in behaviour:
        return Outcome(member, behaviour["error"])
    _write_result(member, epochs, together)
    return Outcome(member)


def _look(behaviour: dict[str, Any], runtime: Runtime, marker: Path, epoch: int) -> None:
    if behaviour.get("looks") and runtime.should_stop is not None and runtime.should_stop():
        _save(marker, epoch)
        raise Stop


def _save(marker: Path, epoch: int) -> None:
    marker.parent.mkdir(exist_ok=True)
    beside = marker.with_suffix(".writing")
    beside.write_text(str(epoch))
    beside.replace(marker)  # a kill at this moment must not leave half of it


def _write_result(member: PackMember, epochs: int, together: int, stopped_by: str | None = None) -> None:
    task = member.config.task
    accuracy = 1 - 0.5 / epochs
    result = {
        "schema": 1,
        "scores": {
            task: {"validation": {"loss": 1 / epochs, "accuracy": accuracy}, "test": {"loss": 1 / epochs, "accuracy": accuracy - 0.01}}
        },
        "primary_metric": {task: "accuracy"},
        "parameters": {"transfer": 10, "source": 100, "head": 5},
        "best_epoch": epochs,
        "epochs": epochs,
        "steps": 10 * epochs,
        "stopped_early": False,
        "stopped_by": stopped_by,
        "precision": "fp32",
        "device": "cpu",
        "pack_size": together,
        "rows": {task: {"train": 100, "validation": 10, "test": 10}},
        "timing": {"train_seconds": 0.1, "evaluate_seconds": 0.1, "load_seconds": 0.1},
        "warnings": [],
    }
    folder = member.directory / ("adapter" if member.config.stage == "source" else "transfer")
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 16)
    (member.directory / "result.json").write_text(json.dumps(result))


def _place(directory: Path) -> tuple[str, Path]:
    """The node and the store's root of a directory: nodes have six segments."""
    root = directory.parents[5]
    return directory.relative_to(root).as_posix(), root


def _behaviour(node: str, root: Path) -> dict[str, Any]:
    file = root / "behaviour.json"
    rules = json.loads(file.read_text()) if file.exists() else []
    merged: dict[str, Any] = {}
    for pattern, values in rules:
        if re.search(pattern, node):
            merged |= values
    return merged
