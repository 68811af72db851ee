"""Checks of ranges, of the block `search` that draws from them, and of `objectives`."""

from typing import TYPE_CHECKING

from orchestrator.definition.problems import Problems
from orchestrator.definition.ranges import Range, is_range, require_sound, setting_range
from orchestrator.definition.schema import MethodRow, RateRange, SweepSchema
from scalearn.methods.registry import METHODS, Method

if TYPE_CHECKING:
    from orchestrator.definition.yaml_source import Key


def check_search(sweep: SweepSchema, problems: Problems) -> None:
    """Check every range, and that ranges and `search` come together."""
    problems.unique(("objectives",), sweep.objectives)
    if "score" not in sweep.objectives:
        problems.add(("objectives",), "{key} must hold 'score': without it, learning nothing would be best.")
    found: list[Key] = []
    for key, rows in sweep.methods.items():
        for index, row in enumerate(rows) if key in METHODS else ():
            found += _ranges(("methods", key, index), METHODS[key], row, problems)
    if found and sweep.search is None:
        problems.add(found[0], "{key} is a range, and nothing says how to search it: add a block such as search: {by: random, trials: 16}.")
    if sweep.search is not None and not found:
        problem = "{key} has nothing to search: give a range such as learning_rate: {low: 1e-4, high: 3e-2, log: true}, or remove it."
        problems.add(("search",), problem)


def _ranges(row_key: "Key", method: Method, row: MethodRow, problems: Problems) -> "list[Key]":
    """Check the ranges of a row. Return where they stand."""
    found: list[Key] = []
    if isinstance(row.learning_rate, RateRange):
        found.append((*row_key, "learning_rate"))
        rate = row.learning_rate
        problems.at(found[-1], require_sound, "learning_rate", Range(rate.low, rate.high, rate.log))
    for name, value in row.settings.items():
        if is_range(method, name, value):
            found.append((*row_key, "settings", name))
            if (span := problems.at(found[-1], setting_range, method, name, value)) is not None:
                problems.at(found[-1], require_sound, name, span)
    return found
