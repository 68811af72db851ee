"""Early stopping across learning rates: asynchronous successive halving among jobs that differ in learning rate and seed alone.

Off unless a sweep says `early_stopping: asha`. After 3, 9, 27, ... evaluations a job goes on only if its best validation score so far is
among the best third of those that the group's jobs had at that point (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning"). Jobs of other tasks, methods, settings or data are never compared. The scores are read from the jobs' own histories in the store,
so a resumed run decides as the interrupted one would have.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.identity import canonical_json
from scalearn.config import Selection

REDUCTION = 3
"""One of so many goes on."""

FIRST = 3
"""Evaluations before the first comparison."""


def is_rung(evaluation: int) -> bool:
    """Tell whether jobs are compared after so many evaluations: 3, 9, 27, ..."""
    rung = FIRST
    while rung < evaluation:
        rung *= REDUCTION
    return rung == evaluation


def goes_on(score: float, others: Sequence[float]) -> bool:
    """Tell whether a job may go on.

    Args:
        score: Its own at this point; higher is better.
        others: Those of its rivals that have come so far. The first to come go on: nobody is there to beat them.
    """
    return sum(other > score for other in others) < math.ceil((len(others) + 1) / REDUCTION)


def rivals(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return for every job that is subject to early stopping the other nodes of its group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for job in graph:
        if job.config.optimisation.early_stopping is not None:
            groups[_group(job)].append(job.node)
    return {node: tuple(other for other in nodes if other != node) for nodes in groups.values() for node in nodes}


def best_score(records: Sequence[Mapping[str, Any]], evaluation: int, selection: Selection, metric: str) -> float | None:
    """Return a job's best validation score in its first so many evaluations, higher is better. None: it has not come so far.

    Args:
        records: Its history, in order.
        evaluation: How many evaluations count.
        selection: What picks its best evaluation.
        metric: The task's primary one.
    """
    if len(records) < evaluation:
        return None
    name, sign = ("loss", -1.0) if selection == "loss" else (metric, 1.0)
    return max(sign * float(record["validation"][name]) for record in records[:evaluation])


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a job's history; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            break  # being written
    return records


def must_stop(history: Path, others: Iterable[Path], selection: Selection, metric: str) -> bool:
    """Tell whether a job that has just been evaluated ends here.

    Args:
        history: Its own, the newest evaluation included.
        others: Those of its rivals.
        selection: What picks the best evaluation of each.
        metric: The task's primary one.
    """
    records = read_history(history)
    if not is_rung(len(records)):
        return False
    score = best_score(records, len(records), selection, metric)
    scores = [best_score(read_history(path), len(records), selection, metric) for path in others]
    return score is not None and not goes_on(score, [other for other in scores if other is not None])


def _group(job: Job) -> str:
    optimisation = replace(job.config.optimisation, learning_rate=0.0)
    parents = [parent.node for parent in job.parents]
    return canonical_json([replace(job.config, optimisation=optimisation, seed=0), parents])
