"""A job's history: one line per evaluation while it trains."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalearn.training.job import JobRun

HISTORY = "history.jsonl"


def append_history(directory: Path, record: Mapping[str, Any]) -> None:
    """Add one evaluation's record as one line, written in one call so that no reader sees half of it."""
    line = json.dumps(record, allow_nan=False) + "\n"
    descriptor = os.open(directory / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # by the umask: a store may be a group's
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def cut_history(directory: Path, step: int) -> None:
    """Drop the records of steps after `step`, which a resumed job is about to repeat."""
    path = directory / HISTORY
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step:
            kept.append(line + "\n")
    pending = path.with_suffix(".writing")
    pending.write_text("".join(kept), encoding="utf-8")
    os.replace(pending, path)


def history_record(run: JobRun, learning_rate: float, validation: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the record of the evaluation just made."""
    progress = run.progress
    record: dict[str, Any] = {
        "epoch": progress.step / run.steps_per_epoch,
        "step": progress.step,
        "total_steps": run.total_steps,
        "time": time.time(),
        "seconds": progress.train_seconds + progress.evaluate_seconds,
        "learning_rate": learning_rate,
        "train_loss": progress.loss_sum / max(1, progress.loss_steps),
        "validation": dict(next(iter(validation.values()))) if len(validation) == 1 else {},
    }
    if len(validation) > 1:
        record["tasks"] = {task: dict(scores) for task, scores in validation.items()}
    return record
