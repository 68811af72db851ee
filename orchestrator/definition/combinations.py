"""The keys `grid` and `zip` of a method's row: short forms of many rows. Everything after them knows plain rows only.

Each of the two maps names to lists of values. A name is one of the method's own settings, or a key of `training`. A setting that is a list
itself, such as `omega`, has a list of values for each of its entries.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from orchestrator.definition.schema import MethodRow
from orchestrator.definition.settings import is_list
from scalearn.methods.registry import Method

Form = Literal["grid", "zip"]
FORMS: tuple[Form, ...] = ("grid", "zip")
RATE = "learning_rate"


class Axis(NamedTuple):
    """Values of one setting, of one entry of a setting, or of one key of `training`."""

    name: str
    values: Sequence[Any]


def axes(method: Method, values: Mapping[str, Any]) -> list[Axis]:
    """Return the axes of a checked `grid` or `zip`, in the order of the file."""
    return [Axis(name, part) for name, given in values.items() for part in (given if is_list(method, name) else [given])]


def count_rows(method: Method, row: MethodRow) -> int:
    """Return how many points `grid` and `zip` span, without making them. `zip` is as long as its first axis."""
    beside = axes(method, row.zip)
    return math.prod(len(axis.values) for axis in axes(method, row.grid)) * (len(beside[0].values) if beside else 1)


def plain_rows(method: Method, row: MethodRow) -> Iterator[MethodRow]:
    """Iterate over the rows that a checked row stands for, in the order in which nested loops over `grid`, then `zip`, would make them.

    The learning rates of a grid stay together in one row, as those of a list do: they are tried against each other.
    """
    if not (row.grid or row.zip):
        yield row
        return
    crossed = axes(method, {name: values for name, values in row.grid.items() if name != RATE})
    beside = axes(method, row.zip)
    names = [axis.name for axis in (*crossed, *beside)]
    steps = list(zip(*(axis.values for axis in beside), strict=True)) if beside else [()]
    for first, second in product(product(*(axis.values for axis in crossed)), steps):
        yield _row_at(method, row, list(zip(names, (*first, *second), strict=True)), row.grid.get(RATE))


def _row_at(method: Method, row: MethodRow, point: list[tuple[str, Any]], rates: list[float] | None) -> MethodRow:
    values: dict[str, Any] = {} if rates is None else {RATE: rates}
    for name, value in point:
        values[name] = [*values.get(name, ()), value] if is_list(method, name) else value
    settings = {name: value for name, value in values.items() if name in method.rules}
    training = MethodRow.model_validate({name: value for name, value in values.items() if name not in settings})
    changed = {name: getattr(training, name) for name in training.model_fields_set}
    return row.model_copy(update={**changed, "settings": {**row.settings, **settings}, "grid": {}, "zip": {}})
