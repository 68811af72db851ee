"""What a finished job leaves: its scores, counts and weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalearn.backbone.encoder import Encoder
from scalearn.files.whole_files import write_whole
from scalearn.formats.library_files import save_adapter, save_head_inputs
from scalearn.methods.backbone_copy import LibraryBranch
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.lora import LoraBranch
from scalearn.model.transfer_files import HeadSpec, TransferSpec, save_transfer
from scalearn.training.job import JobRun

RESULT = "result.json"
SCHEMA = 1


def parameter_counts(run: JobRun) -> dict[str, int]:
    """Return the parameters of the transfer layer, of the source adapters that it builds on, and of the heads.

    A method without sources counts its own adapter under `source`, since a transfer method would build on it.
    """
    learned = sum(parameter.numel() for parameter in run.branch.learned().values())
    heads = sum(parameter.numel() for head in run.heads for parameter in head.parameters() if parameter.requires_grad)
    if run.sources is None:
        return {"transfer": 0, "source": learned, "head": heads}
    return {"transfer": learned, "source": run.sources.parameters, "head": heads}


def write_artifact(run: JobRun, encoder: Encoder) -> None:
    """Save what the job learned: `adapter/` in AdapterHub's or PEFT's layout, or `transfer/` with its own weights and head."""
    directory = run.member.directory
    # Remove the weights of another job that was trained here before. Its `adapter/` stays, since it may be one of the sources.
    shutil.rmtree(directory / "transfer", ignore_errors=True)
    if isinstance(run.branch, BottleneckBranch) and len(run.tasks) == 1:
        name = run.config.task.partition("/")[2]
        save_adapter(encoder, directory / "adapter", name, run.branch.weights(), run.branch.config, run.heads[0], run.tasks[0].label_names)
        save_head_inputs(directory / "adapter", run.config.task, run.config.data[0].max_length, run.config.backbone)
        return
    if isinstance(run.branch, LibraryBranch):
        run.branch.save(directory / "adapter", run.heads[0])
        save_head_inputs(directory / "adapter", run.config.task, run.config.data[0].max_length, run.config.backbone)
        return
    config, branch = run.config, run.branch
    heads = tuple(
        HeadSpec(task.task.key, head.config.kind, head.config.labels, task.label_names, data.max_length, head.config.layers)
        for task, head, data in zip(run.tasks, run.heads, config.data, strict=True)
    )
    spec = TransferSpec(
        config.method, dict(config.settings), config.sources, config.backbone, config.backbone_origin, encoder.hidden_size, heads
    )
    save_transfer(directory / ("adapter" if isinstance(branch, LoraBranch) else "transfer"), spec, branch, run.heads, encoder)


def write_result(run: JobRun, scores: Mapping[str, Any], primary: Mapping[str, str], circumstances: Mapping[str, Any]) -> None:
    """Write `result.json`, the last file of a finished job.

    Args:
        run: The finished job.
        scores: Values by task, split and metric.
        primary: The metric of each task that tables report.
        circumstances: Precision, device, pack size and similar facts. They are recorded, but are never part of the identity.
    """
    progress = run.progress
    result = {
        "schema": SCHEMA,
        "scores": scores,
        "primary_metric": dict(primary),
        "parameters": parameter_counts(run),
        "best_epoch": progress.best_epoch,
        "best_step": progress.best_step,
        "epochs": progress.step / run.steps_per_epoch,
        "steps": progress.step,
        "stopped_early": progress.stopped_early,
        "stopped_by": progress.stopped_by,
        "micro_batches": progress.micro_batches,
        "rows": {task.task.key: {name: len(split) for name, split in task.splits.items()} for task in run.tasks},
        "label_names": {task.task.key: task.label_names for task in run.tasks},
        "timing": {"train_seconds": progress.train_seconds, "evaluate_seconds": progress.evaluate_seconds},
        "warnings": sorted(run.warnings),
        "data_warnings": {task.task.key: task.warnings for task in run.tasks if task.warnings},
        **({} if run.config.select is None else {"selected": run.config.sources}),
        **run.branch.facts(),
        **circumstances,
    }
    write_json(run.member.directory / RESULT, result)


def untrained_result(
    *, device: str, sources: int, rows: Mapping[str, int], started: float, loaded: float, ended: float, **further: Any
) -> dict[str, Any]:
    """Return the content of `result.json` of a job that trains nothing.

    Args:
        device: Type of the device that it ran on.
        sources: Parameters of the sources that it read.
        rows: Training rows that it read, by task.
        started: When it began, in seconds of a clock that only goes forward.
        loaded: When models and data were there.
        ended: When it was done.
        further: Other entries.
    """
    return {
        "schema": SCHEMA,
        "scores": {},
        "primary_metric": {},
        "parameters": {"transfer": 0, "source": sources, "head": 0},
        "best_epoch": 0,
        "epochs": 0,
        "steps": 0,
        "stopped_early": False,
        "precision": "fp32",
        "device": device,
        "pack_size": 1,
        "rows": {task: {"train": count} for task, count in rows.items()},
        "timing": {"train_seconds": 0.0, "evaluate_seconds": ended - loaded},
        "load_seconds": loaded - started,
        **further,
        "warnings": [],
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Move a JSON file into place in one step, so that no reader sees half of it."""
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
