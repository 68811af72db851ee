"""What a job's files hold, as the points, tags and parameters of its MLflow run. Pure Python."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.graph import Job
from orchestrator.identity import to_plain


@dataclass(frozen=True)
class Point:
    """One value of a metric. The same files always give the same points, so that logging one twice changes nothing."""

    name: str
    value: float
    time: float
    """Seconds since 1970."""
    step: int
    """Optimiser steps."""


def history_records(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the whole lines of a `history.jsonl`, which may be growing or absent."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # half a line: the next look finds it whole
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def history_points(path: Path, after: int) -> list[Point]:
    """Return what a history holds beyond a step.

    A job that resumed repeats the steps after its checkpoint; here they come once.

    Args:
        path: A `history.jsonl`, which may be growing.
        after: The last step that is known already.
    """
    points: list[Point] = []
    for record in history_records(path):
        if record["step"] > after:
            after = record["step"]
            points.extend(_evaluation(record))
    return points


def result_points(result: Mapping[str, Any], time: float) -> Iterator[Point]:
    """Iterate over final scores, counts and timings.

    Scores are `test/accuracy`, or `test/glue/rte/accuracy` where a job has several tasks; `best_validation` is the best epoch's.

    Args:
        result: Content of `result.json`.
        time: When the job ended, in seconds since 1970.
    """
    step = int(result.get("steps") or 0)
    values: dict[str, Any] = {name: result.get(name) for name in ("parameters", "timing", "best_epoch", "epochs")}
    scores = result.get("scores") or {}
    for task, splits in scores.items():
        for split, named in splits.items():
            place = "best_validation" if split == "validation" else split
            values[place if len(scores) == 1 else f"{place}/{task}"] = named
        primary = (result.get("primary_metric") or {}).get(task)
        if len(scores) == 1:
            values["test_score"] = splits.get("test", {}).get(primary)
    for name, value in flat(values, "/"):
        if isinstance(value, int | float):
            yield Point(name, float(value), time, step)


def tags(job: Job, stage: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return what one filters runs by.

    Args:
        job: The job.
        stage: The stage it counts in.
        record: Content of `job.json`.
    """
    config = job.config
    commit = (record.get("provenance") or {}).get("git_commit")
    return {
        "path": job.path,
        "fingerprint": job.fingerprint,
        "stage": stage,
        "method": config.method,
        "target": ",".join(job.tasks),
        "seed": str(config.seed),
        "learning_rate": f"{config.optimisation.learning_rate:g}",
        "benchmark": config.benchmark,
        "backbone": config.backbone,
        "parents": ",".join(parent.node for parent in job.parents),
    } | ({"mlflow.source.git.commit": str(commit)} if commit else {})


def run_name(job: Job) -> str:
    """Return what a list of runs calls a job: method, task, learning rate and seed; benchmark, backbone and stage are tags."""
    return "/".join(job.path.split("/")[3:])


def parameters(job: Job) -> dict[str, str]:
    """Return a job's configuration with dotted names."""
    return {name: str(value) for name, value in flat(to_plain(job.config), ".")}


def flat(value: Any, separator: str, name: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested JSON values; a list of one is its only element."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, separator, f"{name}{separator}{key}" if name else str(key))
    elif isinstance(value, list) and len(value) == 1:
        yield from flat(value[0], separator, name)
    else:
        yield name, value


def summary(record: Mapping[str, Any]) -> str:
    """Return a history record in one line: `step 40/120, epoch 1: train_loss 0.61, validation loss 0.55, accuracy 0.71`."""
    total = f"/{record['total_steps']}" if record.get("total_steps") else ""
    epoch = f", epoch {record['epoch']:.3g}" if isinstance(record.get("epoch"), int | float) else ""
    loss = f"train_loss {record['train_loss']:.4g}, " if isinstance(record.get("train_loss"), int | float) else ""
    return f"step {record.get('step')}{total}{epoch}: {loss}{scores(record) or 'no scores'}"


def scores(record: Mapping[str, Any]) -> str | None:
    """Return the validation scores of a history record as text: `validation loss 0.55, accuracy 0.71`. None: it has none."""
    values = flat({"validation": record.get("validation") or record.get("tasks") or {}}, " ")
    shown = [(name.removeprefix("validation "), value) for name, value in values if isinstance(value, int | float)]
    return f"validation {', '.join(f'{name} {value:.4g}' for name, value in shown)}" if shown else None


def _evaluation(record: Mapping[str, Any]) -> Iterator[Point]:
    nested = {"validation": record.get("validation") or record.get("tasks") or {}}
    nested |= {name: record[name] for name in ("train_loss", "learning_rate", "epoch", "seconds") if name in record}
    for name, value in flat(nested, "/"):
        if isinstance(value, int | float):
            yield Point(name, float(value), record["time"], record["step"])
