"""How methods, tasks and metrics are called, ordered and grouped: as their results say, which were told by what made them.

Results of earlier versions say nothing. What tables called them then stands in `names_before.json`, which is never added to.
Unknown keys are shown as they are.
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
"""By kind (`methods`, `tasks`) and key: `title` and `order`; `family` of a method, `metric` of a task."""

FAMILY_TITLES: dict[Family, str] = {"single": "Single task", "joint": "Joint multi-task", "two_stage": "Two-stage"}
"""Groups of the table, in its order."""

_BEFORE: Facts = json.loads(Path(__file__).with_name("names_before.json").read_text(encoding="utf-8"))
_STAGE_FAMILY: dict[str, Family] = {"transfer": "two_stage", "joint": "joint"}
_LAST = float("inf")


def facts_of(records: Iterable[Record]) -> Facts:
    """Return what results say about names. Where they disagree, the job begun last is right; what no job would write is left out."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in shapes.NAMES}
    different = {id(record.names): record for record in records}.values()  # the jobs of a sweep share what its manifest says
    for record in sorted(different, key=lambda record: record.started or 0.0):
        if shapes.has_form(record.names, shapes.NAMES):
            for kind, known in found.items():
                known.update(record.names.get(kind) or {})
    return found


@dataclass(frozen=True)
class Names:
    """What to call things in a table, plot or sentence about some results."""

    facts: Facts = field(default_factory=dict)
    """What the results say."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Names":
        """Return the names in a frame's results; frames that were joined have lost theirs, and show what is in `names_before.json`."""
        return cls(frame.attrs.get("names", {}))

    def method_title(self, method: str) -> str:
        """Title of a method, with its key where another method had the title first: titles tell a table's rows apart."""
        title = self._fact("methods", method, "title") or method
        known = dict.fromkeys([*_BEFORE["methods"], *self.facts.get("methods", {})])
        first = next((key for key in known if self._fact("methods", key, "title") == title), method)
        return title if first == method else f"{title} ({method})"

    def method_family(self, method: str, stage: str | None = None) -> Family:
        """Group of the table that a method's row stands in; where nobody says, the stage of its jobs decides."""
        family = self._fact("methods", method, "family")
        return family if family in FAMILY_TITLES else _STAGE_FAMILY.get(stage or "", "single")

    def order_methods(self, methods: Iterable[str], stages: Mapping[str, str] | None = None) -> list[str]:
        """Each method once: single task, then joint, then two-stage; within a group by their order, unknown keys last by name."""
        families = {method: self.method_family(method, (stages or {}).get(method)) for method in methods}
        groups = list(FAMILY_TITLES)
        return sorted(families, key=lambda key: (groups.index(families[key]), self._fact("methods", key, "order", _LAST), key))

    def task_title(self, task: str, among: Sequence[str] = ()) -> str:
        """Title of a task; with its benchmark where another task of `among` has the same short name."""
        name = short_name(task)
        title = self._fact("tasks", task, "title") or (name.replace("_", " ").title() if name.islower() else name)
        namesakes = {other for other in among if short_name(other) == name}
        return f"{title} ({task.split('/')[0]})" if len(namesakes) > 1 else title

    def order_tasks(self, tasks: Iterable[str]) -> list[str]:
        """Each task once, benchmark by benchmark, each in the order of tables; unknown tasks last by name."""
        return sorted(set(tasks), key=lambda task: (task.split("/")[0], self._fact("tasks", task, "order", _LAST), short_name(task)))

    def primary_metric(self, task: str) -> str:
        """Return the metric that tables report for a task; empty where nobody says."""
        return self._fact("tasks", task, "metric") or ""

    def _fact(self, kind: str, key: str, name: str, default: Any = None) -> Any:
        before = _BEFORE[kind]
        said = (self.facts.get(kind, {}).get(key), before.get(key), before.get(short_name(key)))
        return next((facts[name] for facts in said if facts and facts.get(name) is not None), default)


def short_name(task: str) -> str:
    """`glue/rte` -> `rte`."""
    return task.rsplit("/", 1)[-1]


def metric_title(metric: str) -> str:
    """`macro_f1` -> `macro F1`."""
    return metric.replace("_", " ").replace("f1", "F1")
