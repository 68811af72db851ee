"""The content of a job's files as values, tags, data sets and parameters of its MLflow run. Pure Python."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts.job_history import flat, history_records
from orchestrator.definition.graph import Job
from orchestrator.definition.identity import short_path
from scalearn.identity import to_plain


@dataclass(frozen=True)
class MetricValue:
    """One value of a metric. The same files always give the same values, so logging them twice changes nothing."""

    name: str
    value: float
    time: float
    """Seconds since 1970."""
    step: int
    """Optimiser steps."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split of a task that a job has read."""

    task: str
    split: str
    origin: str
    """What identifies the rows that they were taken from."""
    digest: str
    """16 hexadecimal digits that stand for origin, split and what of it was taken."""
    rows: int


def history_metrics(path: Path, after: int) -> list[MetricValue]:
    """Return the values that a history holds after a step.

    A job that resumed repeats the steps after its checkpoint. Here each step appears once.

    Args:
        path: A `history.jsonl`, which may be growing.
        after: The last step that is already known.
    """
    values: list[MetricValue] = []
    for record in history_records(path):
        if record["step"] > after:
            after = record["step"]
            values.extend(_evaluation(record))
    return values


def result_metrics(result: Mapping[str, Any], time: float) -> Iterator[MetricValue]:
    """Iterate over final scores, counts and timings.

    Scores are `test/accuracy`, or `test/glue/rte/accuracy` if a job has several tasks. `best_validation` is the best epoch's score.

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
            yield MetricValue(name, float(value), time, step)


def tags(job: Job, stage: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which a user filters runs.

    Args:
        job: The job.
        stage: The stage under which it is listed.
        record: Content of `job.json`.
    """
    config, provenance = job.config, record.get("provenance") or {}
    commit, command = provenance.get("git_commit"), provenance.get("argv")
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
    } | _source(command, commit)


def _source(command: Any, commit: Any) -> dict[str, str]:
    """Return the tags from which MLflow's columns `Source` and `Version` are: the command, and the commit of the code that ran."""
    if not isinstance(command, list) or not command:
        shown = {}
    else:
        program, *arguments = map(str, command)
        shown = {"mlflow.source.name": shlex.join([program.rpartition("/")[2], *arguments]), "mlflow.source.type": "LOCAL"}
    return shown | ({"mlflow.source.git.commit": str(commit)} if commit else {})


def split_rows(job: Job, result: Mapping[str, Any]) -> Iterator[SplitRows]:
    """Iterate over the data sets that a finished job has read: each split of each of its tasks.

    Args:
        job: The job.
        result: Content of its `result.json`.
    """
    for data in job.config.data:
        taken = json.dumps(to_plain(data), sort_keys=True, default=str)
        for split, rows in ((result.get("rows") or {}).get(data.task) or {}).items():
            digest = hashlib.sha256(f"{split} {taken}".encode()).hexdigest()[:16]
            yield SplitRows(data.task, split, data.origin, digest, int(rows))


def run_name(job: Job) -> str:
    """Return a job's name in the list of runs: method, task, learning rate and seed. Benchmark, backbone and stage are tags."""
    return short_path(job.path)


def parameters(job: Job) -> dict[str, str]:
    """Return a job's configuration under dotted names."""
    return {name: str(value) for name, value in flat(to_plain(job.config), ".")}


def _evaluation(record: Mapping[str, Any]) -> Iterator[MetricValue]:
    nested = {"validation": record.get("validation") or record.get("tasks") or {}}
    nested |= {name: record[name] for name in ("train_loss", "learning_rate", "epoch", "seconds") if name in record}
    for name, value in flat(nested, "/"):
        if isinstance(value, int | float):
            yield MetricValue(name, float(value), record["time"], record["step"])
