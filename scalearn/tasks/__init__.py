"""The tasks that a sweep can name.

get_task("glue/rte")        the task of that key
benchmark_tasks("glue")     the keys of a benchmark's tasks, in the order of the paper's tables
register_task(task)         adds one's own
"""

from scalearn.errors import UserError
from scalearn.names import unknown
from scalearn.tasks import domains, glue
from scalearn.tasks.task import FileSource, Head, HubSource, Kind, Metric, PackageSource, SplitRule, Task, Template

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
    "get_task",
    "register_task",
]

_TASKS: dict[str, Task] = {}
_BENCHMARKS: dict[str, tuple[str, ...]] = {}


def register_task(task: Task) -> Task:
    """Adds a task to its benchmark; registering an equal task twice changes nothing.

    Raises:
        UserError: Another task has that key.
    """
    if _TASKS.setdefault(task.key, task) != task:
        raise UserError(f"Task {task.key} is defined twice, and differently; give one of the two another name.")
    keys = _BENCHMARKS.get(task.benchmark, ())
    if task.key not in keys:
        _BENCHMARKS[task.benchmark] = (*keys, task.key)
    return task


def get_task(key: str) -> Task:
    """The task of that key, e.g. `glue/rte`.

    Raises:
        UserError: No such task; the sentence names the nearest one.
    """
    if key not in _TASKS:
        raise UserError(unknown("task", key, _TASKS))
    return _TASKS[key]


def benchmark_tasks(benchmark: str) -> tuple[str, ...]:
    """Keys of a benchmark's tasks, in the order of the paper's tables.

    Raises:
        UserError: No such benchmark; the sentence names the nearest one.
    """
    if benchmark not in _BENCHMARKS:
        raise UserError(unknown("benchmark", benchmark, _BENCHMARKS))
    return _BENCHMARKS[benchmark]


def benchmark_names() -> tuple[str, ...]:
    """All registered benchmarks."""
    return tuple(_BENCHMARKS)


for _task in (*glue.TASKS, *domains.TASKS):
    register_task(_task)
