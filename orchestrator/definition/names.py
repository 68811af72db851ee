"""The tasks that a sweep names: by short names within its benchmark, by full keys anywhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.definition.identity import safe_segment
from orchestrator.definition.schema import DEFAULT
from scalearn.errors import UserError
from scalearn.tasks import Task, benchmark_names, benchmark_tasks, get_task, own_task
from scalearn.unknown_name import unknown

T = TypeVar("T")


@dataclass(frozen=True)
class TaskNames:
    """The names that a sweep over one benchmark may use."""

    benchmark: str
    tasks: tuple[str, ...]
    """Full keys of the benchmark's tasks, in the order of stacking, then the sweep's own tasks."""
    own: Mapping[str, Task] = field(default_factory=dict)
    """Tasks that the sweep file itself defines, by full key."""

    @classmethod
    def of(cls, benchmark: str, definitions: Mapping[str, Mapping[str, Any]]) -> "TaskNames":
        """Return the names of a benchmark's tasks and of the tasks that a sweep defines.

        Args:
            benchmark: A registered benchmark, or the benchmark of at least one definition.
            definitions: Definitions by short name or full key; `scalearn.tasks.user_task` describes them.

        Raises:
            UserError: There is no such benchmark, or a definition is wrong.
        """
        own = {task.key: task for task in (defined_task(benchmark, name, text) for name, text in definitions.items())}
        mine = tuple(key for key, task in own.items() if task.benchmark == benchmark)
        if mine and benchmark not in benchmark_names():
            return cls(benchmark, mine, own)
        return cls(benchmark, (*benchmark_tasks(benchmark), *mine), own)

    def task(self, key: str) -> Task:
        """Return the task of a full key."""
        return self.own[key] if key in self.own else get_task(key)

    def key(self, name: str) -> str:
        """Return the full key of a short name or full key.

        Raises:
            UserError: There is no such task. The sentence names the nearest one.
        """
        if "/" in name:
            return self.task(name).key
        found = [task for task in self.tasks if short(task) == name]
        if not found:
            raise UserError(unknown("task", name, map(short, self.tasks), where=f"benchmark {self.benchmark}"))
        return found[0]

    def keys(self, names: Iterable[str] | None) -> tuple[str, ...]:
        """Return full keys in order. None: those of the whole benchmark."""
        return self.tasks if names is None else tuple(map(self.key, names))


def defined_task(benchmark: str, name: str, definition: Mapping[str, Any]) -> Task:
    """Return the task that a sweep file defines.

    Args:
        benchmark: The sweep's benchmark.
        name: Short name within that benchmark, or full key.
        definition: The definition; `scalearn.tasks.user_task` describes it.

    Raises:
        UserError: The definition is wrong, the name cannot be part of a path, or a registered task has the name.
    """
    key = name if "/" in name else f"{benchmark}/{name}"
    for part in key.split("/"):
        safe_segment(part, "task name")
    if key.partition("/")[0] in benchmark_names() and key in benchmark_tasks(key.partition("/")[0]):
        raise UserError(f"Task {key} is a registered one: give your own another name.")
    return own_task(key, definition)


def short(task: str) -> str:
    """Return a task's short name, under which its adapter is stacked: `rte` for `glue/rte`."""
    return task.rpartition("/")[2]


def per_task(values: Mapping[str, T], task: str, default: T) -> T:
    """Return the value for a task: by full key, else by short name, else the value for all tasks, else the default."""
    for name in (task, short(task), DEFAULT):
        if name in values:
            return values[name]
    return default
