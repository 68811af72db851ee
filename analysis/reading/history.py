"""What jobs wrote during training: learning curves, and when each job ran."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.reading import shapes
from analysis.reading.files import Folder
from analysis.reading.load import locate
from analysis.reading.names import facts_of
from analysis.reading.records import Record, read_records
from scalearn.files.json_files import json_lines

_IDENTITY = ("node", "stage", "method", "task", "seed", "learning_rate")


@dataclass(frozen=True)
class Span:
    """When a job ran, in seconds since 1970."""

    node: str
    stage: str
    method: str
    state: str
    start: float
    end: float
    host: str
    lane: int
    """Row of the chart. There is one per worker, so jobs of one pack share it."""


def load_history(store: str | Path, sweep: str | None = None) -> pd.DataFrame:
    """Return every evaluation of every job that has begun, finished or not.

    Returns:
        Columns node, stage, method, task, seed, learning_rate (the job's peak), epoch, step, time (seconds since 1970), seconds (since
        the job's start), metric (`train_loss`, `loss`, `accuracy`, ...), value. Validation metrics have their own names.
    """
    folder, manifest = locate(store, sweep)
    return history_of(folder, read_records(folder, manifest))


def history_of(folder: Folder, records: Sequence[Record]) -> pd.DataFrame:
    """Do as `load_history`, for records that were read already."""
    rows = [row for record in records for row in _rows(folder, record)]
    frame = pd.DataFrame(rows, columns=[*_IDENTITY, "epoch", "step", "time", "seconds", "metric", "value"])
    numbers = dict.fromkeys(("learning_rate", "epoch", "time", "seconds", "value"), "float64")
    texts = dict.fromkeys(("node", "stage", "method", "task", "metric"), "str")
    frame = frame.astype(numbers | {"seed": "Int64", "step": "Int64"} | texts)
    frame.attrs["names"] = facts_of(records)
    return frame


def load_spans(store: str | Path, sweep: str | None = None) -> list[Span]:
    """Return when each job ran, sorted by start. Jobs without an evaluation are left out.

    A job that was resumed counts from its first start to its end, with the pause.
    """
    folder, manifest = locate(store, sweep)
    return spans_of(folder, read_records(folder, manifest))


def spans_of(folder: Folder, records: Sequence[Record]) -> list[Span]:
    """Do as `load_spans`, for records that were read already."""
    spans = []
    for record in records:
        lines = list(read_history(folder, record.node))
        times = [float(line["time"]) for line in lines if line.get("time") is not None]
        if not times:
            continue
        start = record.started or times[0] - float(lines[0].get("seconds") or 0)
        end = max(record.finished or times[-1], times[-1])
        about = (record.node, record.stage or "", str(record.config.get("method", "")), record.state)
        spans.append((Span(*about, start, end, str(record.provenance.get("host") or ""), 0), _worker(record)))
    return _with_lanes(spans)


def read_history(folder: Folder, node: str) -> Iterator[Mapping[str, Any]]:
    """Iterate over the lines of a node's history. A last line that is still being written is left out."""
    yield from (line for line in json_lines(folder.read(f"{node}/history.jsonl") or b"") if shapes.has_form(line, shapes.HISTORY_LINE))


def utilisation(spans: list[Span]) -> float:
    """Return the share of time in which a lane was busy, from the sweep's first start to its last end, averaged over lanes."""
    if not spans:
        return 0.0
    length = max(span.end for span in spans) - min(span.start for span in spans)
    lanes = {(span.host, span.lane) for span in spans}
    busy = sum(_covered([(span.start, span.end) for span in spans if (span.host, span.lane) == lane]) for lane in lanes)
    return busy / (length * len(lanes)) if length > 0 else 0.0


def _rows(folder: Folder, record: Record) -> Iterator[tuple[Any, ...]]:
    config = record.config
    tasks = [entry.get("task") for entry in config.get("data") or ()]
    rate = (config.get("optimisation") or {}).get("learning_rate")
    about = (record.node, record.stage, config.get("method"))
    for line in read_history(folder, record.node):
        moment = (line.get("epoch"), line.get("step"), line.get("time"), line.get("seconds"))
        # A joint job has metrics per task. Its training loss is shared, and is listed for each of them.
        by_task = line.get("tasks") or (line.get("validation") or {}).get("tasks") or {task: line.get("validation") or {} for task in tasks}
        for task, metrics in by_task.items():
            for metric, value in {"train_loss": line.get("train_loss"), **metrics}.items():
                if value is not None and shapes.has_form(value, shapes.Number):
                    yield (*about, task, config.get("seed"), rate, *moment, metric, float(value))


def _worker(record: Record) -> Any:
    """Return the process that trained the job, by its provenance; jobs of one pack share it. If it is not known, the job is alone."""
    return record.provenance.get("pid") or record.node


def _with_lanes(spans: list[tuple[Span, Any]]) -> list[Span]:
    """Return a lane per worker. A worker that starts after another has ended takes its lane."""
    placed: list[Span] = []
    lanes: dict[str, list[float]] = {}
    workers: dict[tuple[str, Any], int] = {}
    for span, worker in sorted(spans, key=lambda entry: (entry[0].start, entry[0].node)):
        ends = lanes.setdefault(span.host, [])
        lane = workers.get((span.host, worker))
        if lane is None:
            # Neighbouring jobs meet within milliseconds on different clocks, so a small overlap is not a second lane.
            lane = next((index for index, end in enumerate(ends) if end <= span.start + 0.05), len(ends))
        if lane == len(ends):
            ends.append(span.end)
        ends[lane] = max(ends[lane], span.end)
        workers[(span.host, worker)] = lane
        placed.append(replace(span, lane=lane))
    return placed


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
