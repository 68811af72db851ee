"""Which tasks a sweep means: short names within its benchmark, full keys anywhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.schema import DEFAULT
from scalearn.errors import UserError
from scalearn.names import unknown
from scalearn.tasks import benchmark_tasks, get_task

T = TypeVar("T")


@dataclass(frozen=True)
class TaskNames:
    """The names that a sweep over one benchmark may use."""

    benchmark: str
    tasks: tuple[str, ...]
    """Full keys of the benchmark's tasks, in the paper's order."""

    @classmethod
    def of(cls, benchmark: str) -> "TaskNames":
        """Return the names of a benchmark.

        Raises:
            UserError: No such benchmark.
        """
        return cls(benchmark, benchmark_tasks(benchmark))

    def key(self, name: str) -> str:
        """Return the full key of a short name or full key.

        Raises:
            UserError: No such task; the sentence names the nearest one.
        """
        if "/" in name:
            return get_task(name).key
        found = [task for task in self.tasks if short(task) == name]
        if not found:
            raise UserError(unknown("task", name, map(short, self.tasks), where=f"benchmark {self.benchmark}"))
        return found[0]

    def keys(self, names: Iterable[str] | None) -> tuple[str, ...]:
        """Return full keys in order. None: all of the benchmark."""
        return self.tasks if names is None else tuple(map(self.key, names))


def short(task: str) -> str:
    """Return a task's short name, under which its adapter is stacked: `rte` of `glue/rte`."""
    return task.rpartition("/")[2]


def per_task(values: Mapping[str, T], task: str, default: T) -> T:
    """Return the value for a task: by full key, else by short name, else for all tasks, else the default."""
    for name in (task, short(task), DEFAULT):
        if name in values:
            return values[name]
    return default
