"""The tasks that a sweep can name.

get_task("glue/rte")        the task of that key
benchmark_tasks("glue")     the keys of a benchmark's tasks, in the order in which adapters are stacked
register_task(task)         adds one's own
task_of(data)               the task that a job reads
"""

import json
from functools import lru_cache

from scalearn.config import DataConfig
from scalearn.errors import UserError
from scalearn.tasks import domains, glue, gsg, humset, super_glue
from scalearn.tasks.task import FileSource, Head, HubSource, Kind, Metric, PackageSource, SplitRule, Task, Template
from scalearn.tasks.user_task import definition_of, own_task
from scalearn.unknown_name import unknown

__all__ = [
    "FileSource",
    "Head",
    "HubSource",
    "Kind",
    "Metric",
    "PackageSource",
    "SplitRule",
    "Task",
    "Template",
    "benchmark_names",
    "benchmark_tasks",
    "definition_of",
    "get_task",
    "own_task",
    "register_task",
    "task_of",
]

_TASKS: dict[str, Task] = {}
_BENCHMARKS: dict[str, tuple[str, ...]] = {}


def register_task(task: Task) -> Task:
    """Add a task to its benchmark. Registering an equal task again changes nothing.

    Raises:
        UserError: Another task has the same key.
    """
    if _TASKS.setdefault(task.key, task) != task:
        raise UserError(f"Task {task.key} is defined twice, and differently; give one of the two another name.")
    keys = _BENCHMARKS.get(task.benchmark, ())
    if task.key not in keys:
        _BENCHMARKS[task.benchmark] = (*keys, task.key)
    return task


def get_task(key: str) -> Task:
    """Return the task of that key, for example `glue/rte`.

    Raises:
        UserError: There is no such task. The sentence names the nearest one.
    """
    if key not in _TASKS:
        raise UserError(unknown("task", key, _TASKS))
    return _TASKS[key]


def benchmark_tasks(benchmark: str) -> tuple[str, ...]:
    """Return the keys of a benchmark's tasks, in the order in which adapters are stacked. Tables have another order (`Task.order`).

    Raises:
        UserError: There is no such benchmark. The sentence names the nearest one.
    """
    if benchmark not in _BENCHMARKS:
        raise UserError(unknown("benchmark", benchmark, _BENCHMARKS))
    return _BENCHMARKS[benchmark]


def benchmark_names() -> tuple[str, ...]:
    """Return the names of all registered benchmarks."""
    return tuple(_BENCHMARKS)


def task_of(data: DataConfig) -> Task:
    """Return the task whose rows a job reads. The job may define the task itself, so that a worker needs no registration.

    Raises:
        UserError: There is no such task.
    """
    return get_task(data.task) if data.own is None else _own(data.task, data.own)


@lru_cache(maxsize=1024)
def _own(key: str, definition: str) -> Task:
    return own_task(key, json.loads(definition))


for _task in (*glue.TASKS, *super_glue.TASKS, *humset.TASKS, *domains.TASKS):
    register_task(_task)
_BENCHMARKS["gsg"] = gsg.KEYS
