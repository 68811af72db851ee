"""What the page of a report shows of a single job: scores, learning curves, configuration, the end of its log, and where more lies."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.errors import ResultsError
from analysis.reading.files import Folder
from analysis.reading.names import Names, facts_of, metric_title
from analysis.reading.records import Record, SweepInfo
from analysis.report.mlflow_jobs import job_link
from analysis.tables.grid import percent, printable, printable_lines
from scalearn.secrets import without_secrets

MOST_DETAILED = 2000
"""The most jobs that a page shows in detail: a page must not outgrow what a browser opens at once."""
LOG_LINES, LOG_CHARACTERS = 12, 1500
"""How much of the end of a log is shown."""
CURVE_POINTS = 40
"""The most points of a curve."""
LOCAL_PAGES = "http://127.0.0.1:5000"
"""Where `scalearn ui` shows the runs that no server shows."""


def detailed(records: Sequence[Record], first: Sequence[str]) -> dict[str, int]:
    """Return the number in the page of each job that it shows in detail, by node.

    Args:
        records: All jobs.
        first: The jobs that are shown in any case, those behind the table.
    """
    wanted = dict.fromkeys([*first, *(record.node for record in records if record.state == "failed"), *(record.node for record in records)])
    known = {record.node for record in records}
    return {node: number for number, node in enumerate([node for node in wanted if node in known][:MOST_DETAILED])}


def job_details(folder: Folder, sweep: SweepInfo, records: Sequence[Record], history: pd.DataFrame, places: Mapping[str, int]) -> str:
    """Return the jobs' details as JSON that may stand in a page.

    Each value that all jobs share, and each log's end that several jobs of a pack have, is there once.

    Args:
        folder: The store.
        sweep: The sweep.
        records: All jobs.
        history: Their evaluations, as `analysis.load_history` returns them.
        places: The number of each job in the page, by node.
    """
    by_node = {record.node: record for record in records}
    shown = [by_node[node] for node in places]
    names = Names(facts_of(records))
    folder.prefetch(f"{record.node}/log.txt" for record in shown)
    logs: dict[str, int] = {}
    curves = {str(node): lines for node, lines in history[history["metric"].notna()].groupby("node")}
    configs = [dict(_flat(record.config)) for record in shown]
    shared = {name: value for name, value in (configs[0] if configs else {}).items() if all(each.get(name) == value for each in configs)}
    jobs = []
    for record, config in zip(shown, configs, strict=True):
        jobs.append(
            {
                "node": record.node,
                "title": _title(record, names),
                "about": _about(record),
                "scores": _scores(record, names),
                "curves": _curves(record, curves.get(record.node), names),
                "config": {name: value for name, value in config.items() if name not in shared},
                "parents": [places[parent] for parent in record.parents if parent in places],
                "log": logs.setdefault(_log_end(folder, record.node), len(logs)),
                "error": record.error,
            }
        )
    page = {"store": folder.name, "shared": shared, "logs": list(logs), "mlflow": _mlflow(sweep), "jobs": jobs}
    # Nothing that a job wrote may end the script element.
    return json.dumps(_printable(page), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _title(record: Record, names: Names) -> str:
    tasks = [str(entry.get("task")) for entry in record.config.get("data") or ()]
    on = ", ".join(names.task_title(task, tasks) for task in tasks) if len(tasks) < 4 else f"{len(tasks)} tasks"
    if record.stage == "similarity":
        return f"Similarity of {on}"
    source = "Source adapter: " if record.stage == "source" else ""
    return f"{source}{names.method_title(str(record.config.get('method')))} on {on}"


def _about(record: Record) -> str:
    rate, seed = (record.config.get("optimisation") or {}).get("learning_rate"), record.config.get("seed")
    parts = [f"seed {seed}" if seed is not None else "", f"learning rate {rate:g}" if isinstance(rate, (int, float)) else "", record.state]
    return ", ".join(filter(None, parts))


def _scores(record: Record, names: Names) -> list[list[str]]:
    """Return lines (task, metric, split, score in percent) of the metrics that tables report."""
    primary, scores = record.result.get("primary_metric") or {}, record.result.get("scores") or {}
    return [
        [names.task_title(task, list(scores)), metric_title(str(primary.get(task))), split, percent(found[primary[task]])]
        for task, splits in scores.items()
        for split, found in splits.items()
        if primary.get(task) in found
    ]


def _curves(record: Record, lines: pd.DataFrame | None, names: Names) -> dict[str, dict[str, list[list[float]]]]:
    """Return pairs [epoch, value] by metric and by line of its picture: the losses, and what the table reports."""
    if lines is None:
        return {}
    tasks = list(dict.fromkeys(lines["task"].dropna()))
    primary = {names.primary_metric(task) or str((record.result.get("primary_metric") or {}).get(task)) for task in tasks}
    found: dict[str, dict[str, list[list[float]]]] = {}
    for (metric, task), each in lines.groupby(["metric", "task"], sort=False):
        if metric not in {"train_loss", "loss", *primary}:
            continue
        name = "training" if metric == "train_loss" else "validation" if len(tasks) == 1 else names.task_title(str(task), tasks)
        step = -(-len(each) // CURVE_POINTS)
        kept = each.iloc[::-1].iloc[::step].iloc[::-1]  # the last evaluation is always there
        points = [[float(f"{epoch:.4g}"), float(f"{value:.4g}")] for epoch, value in zip(kept["epoch"], kept["value"], strict=True)]
        found.setdefault("loss" if metric == "train_loss" else metric_title(str(metric)), {})[name] = points
    return found


def _log_end(folder: Folder, node: str) -> str:
    """Return the last lines of a job's log. Empty text: there is none, or it cannot be read."""
    try:
        text = (folder.read(f"{node}/log.txt") or b"").decode(errors="replace")
    except ResultsError:
        return ""
    return without_secrets("\n".join(text.splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:])


def _mlflow(sweep: SweepInfo) -> dict[str, str] | None:
    """Return how a job's run is found in MLflow: an address with `{node}` for the job, and what must run for it. None: it is not known."""
    uri = sweep.tracking_uri
    if uri is None or sweep.experiment_id is None:
        return None
    is_server = uri.startswith(("http://", "https://"))
    needs = "" if is_server else f"scalearn ui {sweep.file or sweep.name}"
    return {"link": job_link(uri if is_server else LOCAL_PAGES, sweep.experiment_id, "{node}"), "needs": needs}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return a configuration's values as text, under dotted names. Values that are not set are left out."""
    if isinstance(value, Mapping):
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{prefix}.{name}" if prefix else str(name))]
    if isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value):
        if len(value) == 1:
            return _flat(value[0], prefix)
        return [pair for index, each in enumerate(value) for pair in _flat(each, f"{prefix}.{index}")]
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    return [(prefix, without_secrets(text))] if text else []


def _printable(value: Any) -> Any:
    """Return the value with all its texts printable, since they come from files that anyone may have written."""
    if isinstance(value, dict):
        return {printable(str(name)): _printable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(each) for each in value]
    return printable_lines(value) if isinstance(value, str) else value
