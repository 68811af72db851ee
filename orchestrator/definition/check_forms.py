"""Checks of the keys `grid` and `zip` of a method's row."""

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.definition.combinations import Form, axes
from orchestrator.definition.explain import expected
from orchestrator.definition.problems import Problems
from orchestrator.definition.schema import MethodRow, Optimisation
from orchestrator.definition.settings import is_list
from orchestrator.definition.yaml_source import describe
from scalearn.methods.registry import Method
from scalearn.methods.settings import check_setting
from scalearn.unknown_name import unknown

if TYPE_CHECKING:
    from orchestrator.definition.yaml_source import Key


def check_form(row_key: "Key", form: Form, method: Method, row: MethodRow, problems: Problems) -> None:
    """Check the names and values of `grid` or `zip`, and that the lists of `zip` are of one length."""
    key, block = (*row_key, form), row.grid if form == "grid" else row.zip
    for name, values in block.items():
        _values((*key, name), form, method, row, values, problems)
    lengths = [len(axis.values) for axis in axes(method, block)] if form == "zip" and not problems.below(key) else []
    if len(set(lengths)) > 1:
        problems.add(key, f"{{key}} holds lists of {', '.join(map(str, lengths))} values, which go together: give all the same number.")


def _values(key: "Key", form: Form, method: Method, row: MethodRow, values: Any, problems: Problems) -> None:
    """Check what one name stands for."""
    name = str(key[-1])
    known = [*method.rules, *Optimisation.model_fields]
    if name not in known:
        problems.add(key, unknown("setting or key", name, known, where=f"'{form}' of method '{method.key}'"))
        return
    if name in row.settings or name in row.model_fields_set or (form == "zip" and name in row.grid):
        problems.add(key, "{key} is given elsewhere in this row too: keep one of them.")
    parts = values if is_list(method, name) and isinstance(values, list) else [values]
    if not parts or not all(isinstance(part, list) and part for part in parts):
        listed = "hold a list of values for each source, such as [[0, 0.5], [0, 1]]" if is_list(method, name) else "be a list of values"
        problems.add(key, f"{{key}} must {listed}, not {describe(values) if values else 'empty'}.")
        return
    for part in parts:
        for value in part:
            _value(key, method, name, value, problems)
        if form == "grid":
            problems.unique(key, map(str, part))


def _value(key: "Key", method: Method, name: str, value: Any, problems: Problems) -> None:
    if isinstance(value, list | dict):
        problems.add(key, f"{{key}} must hold single values, not {describe(value)}.")
    elif name in method.rules:
        problems.at(key, check_setting, method, name, [value] if is_list(method, name) else value)
    else:
        try:
            MethodRow.model_validate({name: value})
        except ValidationError as error:
            (detail, *_) = error.errors(include_url=False)
            problems.add(key, f"A value of {{key}} must be {expected(detail)}, not {describe(value)}.")
