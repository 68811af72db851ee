"""A method's own settings: the given ones checked, and defaults for the others. Planning imports this module, so it imports no torch."""

from collections.abc import Mapping
from typing import Any

from scalearn.config import Setting
from scalearn.errors import UserError
from scalearn.methods.registry import Method, SettingRule
from scalearn.unknown_name import unknown


def resolve_settings(method: Method, given: Mapping[str, Any], sources: int = 0) -> dict[str, Setting]:
    """Return every setting of a method: the given ones, checked, and defaults for the others.

    A whole number given for a float becomes a float, so that `0` and `0.0` are one value. Lists become tuples.

    Args:
        method: Entry of the registry.
        given: Settings by name.
        sources: Number of source adapters of the job, which a tuple of omegas must match.

    Raises:
        UserError: A setting is unknown, missing, mistyped or out of range. The sentence says what is allowed.
    """
    for name in given:
        if not method.rules:
            raise UserError(f"Method '{method.key}' has no settings: remove '{name}'.")
        if name not in method.rules:
            raise UserError(unknown("setting", name, method.rules, where=f"method '{method.key}'"))
    resolved: dict[str, Setting] = {}
    for name, rule in method.rules.items():
        if name not in given and rule.required:
            raise UserError(f"Method '{method.key}' needs the setting '{name}': {rule.meaning}.")
        resolved[name] = check_setting(method, name, given[name]) if name in given else rule.default
    omega = resolved.get("omega")
    if isinstance(omega, tuple) and len(omega) != sources:
        raise UserError(f"Setting 'omega' of method '{method.key}' has {len(omega)} numbers for {sources} sources: give one per source.")
    return resolved


def check_setting(method: Method, name: str, value: Any) -> Setting:
    """Return one setting's value in its canonical type.

    Raises:
        UserError: The value does not have the type or range of the setting's rule.
    """
    rule = method.rules[name]
    expected = _expectation(rule)
    wrong = UserError(f"Setting '{name}' of method '{method.key}' must be {expected}, not {value!r}.")
    if isinstance(rule.default, tuple):
        if not isinstance(value, list | tuple) or not value:
            raise wrong
        return tuple(_word(item, wrong) if rule.words else _number(item, rule, wrong) for item in value)
    if isinstance(rule.default, bool) or isinstance(value, bool) or rule.default is None:
        if type(value) is not type(rule.default):
            raise wrong
        return value
    if isinstance(rule.default, float):
        return _number(value, rule, wrong)
    if not isinstance(value, str | int) or type(value) is not type(rule.default):
        raise wrong
    if isinstance(value, int):
        _number(value, rule, wrong)
    return value


def _number(value: Any, rule: SettingRule, wrong: UserError) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if not float("-inf") < value < float("inf"):
        raise wrong
    if (rule.low is not None and value < rule.low) or (rule.high is not None and value >= rule.high):
        raise wrong
    return float(value)


def _word(value: Any, wrong: UserError) -> str:
    if not isinstance(value, str) or not value:
        raise wrong
    return value


def _expectation(rule: SettingRule) -> str:
    if rule.words:
        return "a list of words"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list of numbers"}
    text = kinds.get(type(rule.default), "null")
    if rule.low is not None:
        text += f" of at least {rule.low:g}"
    if rule.high is not None:
        text += f"{' and' if rule.low is not None else ''} below {rule.high:g}"
    return text
