"""A job's record as MLflow tags, so that the tracking server gives the same data frame as the store. Pure Python.

A run's parameters and metrics are for people, since MLflow keeps parameters as text and cuts long ones. The tags hold the record as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from analysis.reading.records import Record, record_of
from scalearn.files.json_files import decode

JOB_TAG, RESULT_TAG = "mlflow.scalearn.job", "mlflow.scalearn.result"
"""MLflow's pages show no tag that begins with `mlflow.`, so these do not stand before those by which people filter."""
_BEFORE = {JOB_TAG: "record.job", RESULT_TAG: "record.result"}
"""The tags' names in databases of earlier versions."""
PART = 4000
"""Characters per tag. Every MLflow server accepts so many."""
MANIFEST_ARTIFACT = "manifest.json"
"""Artifact of a sweep's run with the sweep's manifest, which also names the jobs that have no run yet."""
UNFINISHED = {RESULT_TAG: "0"}
"""Tags of a job that had ended and runs again."""
_PROVENANCE = ("host", "pid", "git_commit")


def job_tags(job: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a job that has begun.

    Args:
        job: Content of `job.json`.
    """
    provenance = job.get("provenance") or {}
    kept = {name: job.get(name) for name in ("stage", "config", "parents", "names", "started", "attempts")}
    kept["provenance"] = {name: provenance[name] for name in _PROVENANCE if name in provenance}
    return _parts(JOB_TAG, kept)


def ending_tags(result: Mapping[str, Any] | None, marker: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a job that has ended.

    Args:
        result: Content of `result.json`. None: the job failed.
        marker: Content of `SUCCESS.json` or `FAILED.json`.
    """
    ending = {name: marker.get(name) for name in ("error", "attempts", "time") if name in marker}
    return _parts(RESULT_TAG, {"result": dict(result) if result is not None else None, **ending})


def record_from_tags(node: str, tags: Mapping[str, str], entry: Mapping[str, Any] | None = None) -> Record:
    """Return the record from which `job_tags` and `ending_tags` were made. `entry` is the node's entry in the sweep's manifest."""
    job, ending = _join(JOB_TAG, tags), _join(RESULT_TAG, tags)
    result = (ending or {}).get("result")
    return record_of(node, "running" if ending is None else "failed" if result is None else "succeeded", job, ending, result, entry)


def _parts(name: str, value: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(value, separators=(",", ":"))
    # MLflow would keep the last parts of an earlier, longer record. The count says where this one ends.
    pieces = [text[start : start + PART] for start in range(0, len(text), PART)]
    return {name: str(len(pieces))} | {f"{name}.{index}": piece for index, piece in enumerate(pieces)}


def _join(name: str, tags: Mapping[str, str]) -> dict[str, Any] | None:
    name = name if name in tags else _BEFORE[name]
    if name not in tags:
        return None
    try:
        return decode("".join(tags[f"{name}.{index}"] for index in range(int(tags[name]))).encode())
    except (KeyError, ValueError):
        return None
