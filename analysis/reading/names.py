"""The titles, order and groups of methods, tasks and metrics, as the results themselves state them.

Results of earlier versions state none. For these, `names_before.json` has the titles of that time; nothing is ever added to it. Unknown
keys are shown unchanged.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.reading import shapes
from analysis.reading.records import Record

Family = Literal["single", "joint", "two_stage"]
Facts = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Facts by kind (`methods`, `tasks`) and key: `title` and `order`, and `family` of a method or `metric` of a task."""

FAMILY_TITLES: dict[Family, str] = {"single": "Single task", "joint": "Joint multi-task", "two_stage": "Two-stage"}
"""Groups of the table, in order."""

_BEFORE: Facts = json.loads(Path(__file__).with_name("names_before.json").read_text(encoding="utf-8"))
_STAGE_FAMILY: dict[str, Family] = {"transfer": "two_stage", "joint": "joint"}
_LAST = float("inf")


def facts_of(records: Iterable[Record]) -> Facts:
    """Return what results state about names. If they differ, the job begun last counts. What no job would write is left out."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in shapes.NAMES}
    different = {id(record.names): record for record in records}.values()  # jobs of a sweep share the names in its manifest
    for record in sorted(different, key=lambda record: record.started or 0.0):
        if shapes.has_form(record.names, shapes.NAMES):
            for kind, known in found.items():
                known.update(record.names.get(kind) or {})
    return found


@dataclass(frozen=True)
class Names:
    """The names to use in a table, plot or sentence about some results."""

    facts: Facts = field(default_factory=dict)
    """The facts that the results state."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Names":
        """Return the names in a frame's results. Frames that were joined have lost them, and use `names_before.json`."""
        return cls(frame.attrs.get("names", {}))

    def method_title(self, method: str) -> str:
        """Return a method's title, with its key if another method had the title first, since titles tell a table's rows apart."""
        title = self._fact("methods", method, "title") or method
        known = dict.fromkeys([*_BEFORE["methods"], *self.facts.get("methods", {})])
        first = next((key for key in known if self._fact("methods", key, "title") == title), method)
        return title if first == method else f"{title} ({method})"

    def method_family(self, method: str, stage: str | None = None) -> Family:
        """Return the group of the table for a method's row. If it is not stated, the stage of the method's jobs decides."""
        family = self._fact("methods", method, "family")
        return family if family in FAMILY_TITLES else _STAGE_FAMILY.get(stage or "", "single")

    def order_methods(self, methods: Iterable[str], stages: Mapping[str, str] | None = None) -> list[str]:
        """Return each method once: single task, then joint, then two-stage. Within a group by their order, unknown keys last by name."""
        families = {method: self.method_family(method, (stages or {}).get(method)) for method in methods}
        groups = list(FAMILY_TITLES)
        return sorted(families, key=lambda key: (groups.index(families[key]), self._fact("methods", key, "order", _LAST), key))

    def task_title(self, task: str, among: Sequence[str] = ()) -> str:
        """Return a task's title, with its benchmark if another task of `among` has the same short name."""
        name = short_name(task)
        title = self._fact("tasks", task, "title") or (name.replace("_", " ").title() if name.islower() else name)
        namesakes = {other for other in among if short_name(other) == name}
        return f"{title} ({task.split('/')[0]})" if len(namesakes) > 1 else title

    def order_tasks(self, tasks: Iterable[str]) -> list[str]:
        """Return each task once, benchmark by benchmark, each in the order of tables. Unknown tasks come last by name."""
        return sorted(set(tasks), key=lambda task: (task.split("/")[0], self._fact("tasks", task, "order", _LAST), short_name(task)))

    def primary_metric(self, task: str) -> str:
        """Return the metric that tables report for a task. It is empty if it is not stated."""
        return self._fact("tasks", task, "metric") or ""

    def _fact(self, kind: str, key: str, name: str, default: Any = None) -> Any:
        before = _BEFORE[kind]
        said = (self.facts.get(kind, {}).get(key), before.get(key), before.get(short_name(key)))
        return next((facts[name] for facts in said if facts and facts.get(name) is not None), default)


def short_name(task: str) -> str:
    """Return a task's short name: `rte` for `glue/rte`."""
    return task.rsplit("/", 1)[-1]


def metric_title(metric: str) -> str:
    """Return a metric's title: `macro F1` for `macro_f1`."""
    return metric.replace("_", " ").replace("f1", "F1")
