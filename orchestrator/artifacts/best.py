"""The best finished job of a target, by validation score: test scores choose nothing."""

from typing import Any

from orchestrator.artifacts.as_run import Run
from orchestrator.definition.graph import Job
from orchestrator.definition.names import TaskNames, short
from scalearn.errors import UserError
from scalearn.methods.registry import get_method
from scalearn.unknown_name import unknown


def best_job(run: Run, method: str | None = None, target: str | None = None) -> tuple[Job, float]:
    """Return the finished job with the best validation score among those that can be folded into one adapter, and that score.

    Of equal ones it is the first of the sweep.

    Args:
        run: The sweep.
        method: Only jobs of this method. None: of all methods.
        target: Only jobs on this task, by short name or full key. None: the sweep has but one target.

    Raises:
        UserError: The sweep has no such method or target, several targets and none was named, or no such job is done.
    """
    jobs = [job for job in run.graph if get_method(job.config.method).folds]
    methods = dict.fromkeys(job.config.method for job in jobs)
    if method is not None and method not in methods:
        raise UserError(unknown("method", method, methods, where="what the sweep can fold into one adapter"))
    targets = dict.fromkeys(job.config.task for job in jobs)
    if target is None and len(targets) > 1:
        raise UserError(f"Scores of different targets cannot be compared: choose with --target, of {', '.join(map(short, targets))}.")
    task = None if target is None else TaskNames.of(run.sweep.benchmark, run.sweep.tasks).key(target)
    wanted = [job for job in jobs if method in (None, job.config.method) and task in (None, job.config.task)]
    scored = [(score, job) for job in wanted if (score := _validation(run, job)) is not None]
    if not scored:
        raise UserError(f"None of {len(wanted)} such jobs is done in {run.store.url}: run the sweep first, or see `scalearn status`.")
    best = max(scored, key=lambda pair: pair[0])
    return best[1], best[0]


def _validation(run: Run, job: Job) -> float | None:
    """Return the validation score of a finished job. None: it is not done, or has no score."""
    result = run.store.result(job.node) if run.store.complete(job.node) else None
    return None if result is None else validation_score(result)


def validation_score(result: dict[str, Any]) -> float | None:
    """Return the mean over tasks of the primary metric on validation. Nothing else in a result is looked at. None: there is no score."""
    primary = result["primary_metric"]
    scores = [splits.get("validation", {}).get(primary[task]) for task, splits in result["scores"].items()]
    return sum(scores) / len(scores) if scores and None not in scores else None
