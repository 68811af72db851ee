"""A method's own settings in a sweep file: single values, and lists that make one job per value."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from scalearn.config import Setting
from scalearn.methods.registry import Method
from scalearn.methods.settings import check_setting, resolve_settings


def setting_points(method: Method, given: Mapping[str, Any], sources: int) -> tuple[dict[str, Setting], ...]:
    """Return one complete set of settings for every combination of the listed values.

    For several values, a setting of one value (`omega_dropout`) has `[0.0, 0.3]`; a setting that is a list (`omega`) has a list of lists.

    Args:
        method: Entry of the registry.
        given: Settings, as in the sweep file.
        sources: Number of source adapters.

    Raises:
        UserError: A setting is unknown, missing, mistyped or out of range.
    """
    choices = [[(name, value) for value in _values(method, name, raw)] for name, raw in given.items()]
    return tuple(resolve_settings(method, dict(point), sources) for point in product(*choices))


def check_values(method: Method, name: str, raw: Any) -> None:
    """Check one setting as the file gives it, without the others.

    Raises:
        UserError: It is unknown, or a value is mistyped or out of range.
    """
    if name not in method.rules:
        resolve_settings(method, {name: raw})
    for value in _values(method, name, raw):
        check_setting(method, name, value)


def count_points(method: Method, given: Mapping[str, Any]) -> int:
    """Return how many combinations `setting_points` would make, without making them."""
    return math.prod(len(_values(method, name, raw)) for name, raw in given.items())


def is_list(method: Method, name: str) -> bool:
    """Tell whether one value of a setting is a list, as that of `omega` is."""
    return name in method.rules and isinstance(method.rules[name].default, tuple)


def _values(method: Method, name: str, raw: Any) -> list[Setting]:
    listed = isinstance(raw, list) and bool(raw)
    if listed and name in method.rules and (not is_list(method, name) or isinstance(raw[0], list)):
        return [_frozen(item) for item in raw]
    return [_frozen(raw)]


def _frozen(value: Any) -> Setting:
    """Return a value with all lists in it as tuples, at any depth."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
