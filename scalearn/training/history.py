"""A job's history: one line per evaluation during training."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalearn.files.json_files import json_lines
from scalearn.files.whole_files import write_whole
from scalearn.training.job import JobRun

HISTORY = "history.jsonl"


def append_history(directory: Path, record: Mapping[str, Any]) -> None:
    """Add the record of one evaluation as one line, written in one call so that no reader sees half of it."""
    descriptor = os.open(directory / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # the umask decides: a group may share a store
    try:
        os.write(descriptor, _line(record))
    finally:
        os.close(descriptor)


def cut_history(directory: Path, step: int) -> None:
    """Remove the records of steps after `step`, which a resumed job is about to repeat."""
    path = directory / HISTORY
    if not path.is_file():
        return
    kept = (record for record in json_lines(path.read_bytes()) if isinstance(record.get("step"), int) and record["step"] <= step)
    write_whole(path, b"".join(map(_line, kept)))


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def history_record(run: JobRun, learning_rate: float, validation: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the record of the evaluation that was just made."""
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
