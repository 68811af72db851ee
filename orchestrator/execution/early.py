"""Early stopping across learning rates: asynchronous successive halving among jobs that differ only in learning rate and seed.

Off unless a sweep says `early_stopping: asha`. After 3, 9, 27, ... evaluations a job goes on only if its best validation score so far is
in the best third of the scores that its group's jobs had at that point (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning"). Jobs of different tasks, methods, settings or data are never compared. The scores are read from the jobs' histories in the store.
Every decision is written into the job's own directory. A decision that an interruption has prevented is made at the next evaluation, and
no decision is made twice.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.artifact import HISTORY
from orchestrator.definition.comparison import compared_group
from orchestrator.definition.graph import Graph
from scalearn.config import Selection
from scalearn.files.json_files import json_lines

REDUCTION = 3
"""One of this many jobs goes on."""

FIRST = 3
"""Evaluations before the first comparison."""


DECISIONS = "early_stopping.jsonl"
"""A file of the artifact like others. It has one line per comparison, with the scores that decided."""


def last_rung(evaluations: int) -> int | None:
    """Return the last comparison point (3, 9, 27, ...) that so many evaluations have reached. None: they have reached none."""
    rung = FIRST
    while rung * REDUCTION <= evaluations:
        rung *= REDUCTION
    return rung if rung <= evaluations else None


def goes_on(score: float, others: Sequence[float]) -> bool:
    """Tell whether a job may go on.

    Args:
        score: The job's own score at this point; higher is better.
        others: The scores that its rivals have reported so far. The first jobs to arrive go on, since nobody is there to beat them.
    """
    return sum(other > score for other in others) < math.ceil((len(others) + 1) / REDUCTION)


def rivals(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the other nodes of its group for every job that is subject to early stopping."""
    groups: dict[str, list[str]] = defaultdict(list)
    for job in graph:
        if job.config.optimisation.early_stopping is not None:
            groups[compared_group(job)].append(job.node)
    return {node: tuple(other for other in nodes if other != node) for nodes in groups.values() for node in nodes}


def best_score(records: Sequence[Mapping[str, Any]], evaluation: int, selection: Selection, metric: str) -> float | None:
    """Return a job's best validation score in its first evaluations; higher is better. None: it has not had so many.

    Args:
        records: The job's history, in order.
        evaluation: How many evaluations count.
        selection: What picks its best evaluation.
        metric: The task's primary metric.
    """
    if len(records) < evaluation:
        return None
    name, sign = ("loss", -1.0) if selection == "loss" else (metric, 1.0)
    return max(sign * float(record["validation"][name]) for record in records[:evaluation])


def must_stop(directory: Path, others: Callable[[], Iterable[bytes]], selection: Selection, metric: str) -> bool:
    """Tell whether a job that has just been evaluated ends here, and write down the reason.

    Args:
        directory: The job's files, with the newest evaluation in the history.
        others: Returns the histories of the rivals that have one. Called only where there is something to decide.
        selection: What picks the best evaluation of each job.
        metric: The task's primary metric.
    """
    records = list(json_lines((directory / HISTORY).read_bytes()))
    rung = last_rung(len(records))
    score = None if rung is None else best_score(records, rung, selection, metric)
    if rung is None or score is None:
        return False
    decisions = directory / DECISIONS
    for made in json_lines(decisions.read_bytes()) if decisions.exists() else ():
        if made.get("evaluations") == rung:
            return made.get("goes_on") is False
    scores = [best_score(list(json_lines(content)), rung, selection, metric) for content in others()]
    came = [other for other in scores if other is not None]
    decision = {"evaluations": rung, "score": score, "others": came, "goes_on": goes_on(score, came)}
    with decisions.open("a", encoding="utf-8") as file:
        file.write(json.dumps(decision) + "\n")
    return not decision["goes_on"]
