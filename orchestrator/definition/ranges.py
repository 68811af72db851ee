"""Ranges of values that a sweep's `search` draws from: of the learning rate, and of a method's settings that are numbers.

A value is rounded to three digits, so that names of nodes stay short, and a value that is proposed twice, or that a list names, is the same
job. A drawn value depends only on the seed, the number of the trial, the name and the range. So the same draws serve all methods and
targets, and another version of Python changes none.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.definition.schema import MethodRow, RateRange
from scalearn.errors import UserError
from scalearn.methods.registry import Method
from scalearn.methods.settings import check_setting

KEYS = ("low", "high", "log")

Point = Mapping[str, float]
"""Values by the name of a setting, or `learning_rate`."""


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether equal factors are equally likely, not equal distances."""
    whole: bool = False
    """Whether only whole numbers count."""

    def at(self, share: float) -> float:
        """Return the value at a share of the way from low to high."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)  # ends are as likely as what is between
        if self.log:
            return self.nearest(math.exp((1 - share) * math.log(low) + share * math.log(high)))
        return self.nearest(low + share * (high - low))

    def nearest(self, value: float) -> float:
        """Return the value of the range that stands for a number: it has three digits, or is whole."""
        return min(max(round(value) if self.whole else float(f"{value:.2e}"), self.low), self.high)

    def holds(self, value: object) -> bool:
        """Tell whether a value is one that this range could have given."""
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and self.nearest(value) == value


def ranges_of(method: Method, row: MethodRow) -> dict[str, Range]:
    """Return the ranges of a checked row by name, the learning rate first."""
    rate = row.learning_rate
    found = {"learning_rate": Range(rate.low, rate.high, rate.log)} if isinstance(rate, RateRange) else {}
    return found | {name: setting_range(method, name, value) for name, value in row.settings.items() if is_range(method, name, value)}


def is_range(method: Method, name: str, value: Any) -> bool:
    """Tell whether the value of a setting in a file is meant as a range. No setting has a mapping as its value."""
    return name in method.rules and isinstance(value, dict)


def setting_range(method: Method, name: str, value: Mapping[str, Any]) -> Range:
    """Return the range that a file gives for a setting.

    Raises:
        UserError: It is none, or the setting is no number of such size.
    """
    default = method.rules[name].default
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise UserError(f"Setting '{name}' of method '{method.key}' is no number, so it has no range: give a value or a list of values.")
    if not {"low", "high"} <= value.keys() <= set(KEYS) or not isinstance(value.get("log", False), bool):
        raise UserError(f"A range of setting '{name}' must be {{low: NUMBER, high: NUMBER}}, and may hold log: true or false beside them.")
    low, high = (check_setting(method, name, value[end]) for end in ("low", "high"))
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return Range(low, high, value.get("log", False), isinstance(default, int))


def require_sound(name: str, span: Range) -> None:
    """Refuse a range without values to choose from.

    Raises:
        UserError: The sentence says what is wrong.
    """
    if span.low >= span.high:
        raise UserError(f"The range of '{name}' goes from {span.low:g} to {span.high:g}: 'low' must be below 'high'.")
    if span.log and span.low <= 0:
        raise UserError(f"The range of '{name}' begins at {span.low:g}, which has no logarithm: 'log: true' needs a 'low' above 0.")


def draw(space: Mapping[str, Range], seed: int, number: int) -> Point:
    """Return the point of a random trial.

    Args:
        space: The ranges.
        seed: Another seed draws others.
        number: The trial's number.
    """
    return {name: span.at(_share(f"{seed}/{number}/{name}")) for name, span in space.items()}


def sound_points(space: Mapping[str, Range], points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the beginning of a list of points that lies in a space: what a store kept may be damaged or of another version."""
    kept: list[Point] = []
    for point in points:
        if point.keys() != space.keys() or not all(span.holds(point[name]) for name, span in space.items()):
            break
        kept.append({name: point[name] for name in space})
    return tuple(kept)


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
