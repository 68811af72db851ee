"""What results need to know of their methods and tasks: titles, order and groups. `analysis.reading.names` reads it."""

from collections.abc import Iterable
from typing import Any

from orchestrator.definition.graph import Job
from scalearn.methods.registry import METHODS, Method
from scalearn.tasks import task_of


def names_of(jobs: Iterable[Job]) -> dict[str, Any]:
    """Return the facts of all methods and tasks of some jobs, by key. They go into `job.json`, the manifest and MLflow's tags."""
    configs = [job.config for job in jobs]
    methods = {config.method: METHODS[config.method] for config in configs if config.method in METHODS}
    tasks = [task_of(data) for data in {(data.task, data.own): data for config in configs for data in config.data}.values()]
    return {
        "methods": {key: _facts(method) for key, method in methods.items()},
        "tasks": {task.key: {"title": task.title, "order": task.order, "metric": task.primary_metric} for task in tasks},
    }


def _facts(method: Method) -> dict[str, Any]:
    tuned = {"tuned": list(method.tuned)} if method.tuned else {}
    return {"title": method.title, "family": method.family, "order": method.order, **tuned}
