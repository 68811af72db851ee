"""One sentence for each error in a sweep file: the place, the key, what is allowed, and what the file has."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.definition.problems import Misfit
from orchestrator.definition.yaml_source import Document, Key, describe
from scalearn.unknown_name import unknown

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "byte_size": "a size such as 8 GiB",
    "byte_size_unit": "a size such as 8 GiB",
}
_JUDGED_BY = {"tasks", "sources", "settings", "grid", "zip", "search"}
"""Keys by which others are judged: names that they refer to, and numbers that must agree."""
_MOST = 20
"""Most sentences for one file."""
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "below"}


class Told(NamedTuple):
    """An error in words."""

    rank: int
    """Its place among the keys of the document."""
    sentence: str


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Told]:
    """Return a sentence for every error that validation found, in no order.

    A missing key beside an unknown one is left out, since it may only be misspelt.

    Args:
        error: The error that validation raised.
        document: The document that was validated.
        model: The model of the whole document.
    """
    details = error.errors(include_url=False)
    misspelt = {detail["loc"][:-1] for detail in details if detail["type"] == "extra_forbidden"}
    judged = [detail for detail in details if detail["type"] != "missing" or detail["loc"][:-1] not in misspelt]
    return [Told(document.rank(located(document, detail["loc"])), f"{_sentence(detail, document, model)}.") for detail in judged]


def without_errors(error: ValidationError, document: Document) -> dict[str, Any] | None:
    """Return the document without the keys that validation refused, so that the rest can be checked in the same go.

    None: other keys may be judged by one that was refused, so that checks of the rest might tell errors that there are not.
    """
    data: dict[str, Any] = copy.deepcopy(document.data)
    for detail in error.errors(include_url=False):
        key = located(document, detail["loc"])
        while key and isinstance(key[-1], int):  # an item's list goes as a whole, since numbers of other items must not change
            key = key[:-1]
        if not key or detail["type"] == "missing" or _JUDGED_BY.intersection(key):
            return None
        block: Any = data
        for part in key[:-1]:
            block = block[part] if not isinstance(block, dict) or part in block else {}
        block.pop(key[-1], None)
    return data


def describe_misfit(misfit: Misfit, document: Document) -> Told:
    """Return the sentence for an error that the checks found."""
    key = located(document, misfit.key)
    return Told(document.rank(key), f"{document.place(key)}: {misfit.problem.replace('{key}', repr(dotted(key)))}")


def in_order(told: Iterable[Told]) -> list[str]:
    """Return sentences in the order of the file, each once. Of very many, say how many more there are."""
    sentences = list(dict.fromkeys(each.sentence for each in sorted(told, key=lambda each: each.rank)))
    more = len(sentences) - _MOST
    return sentences if more <= 0 else [*sentences[:_MOST], f"There are {more} more such errors."]


def located(document: Document, path: Sequence[str | int]) -> Key:
    """Return the key in the source that a path of a validated value belongs to.

    Validation reads short forms as long ones (`seeds: 3` as `seeds.default[0]`). Parts that are not in the source are left out.
    """
    value: Any = document.data
    steps: list[str | int] = []
    for part in path:
        container: Any = value
        if (isinstance(value, Mapping) and part in value) or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            steps.append(part)
            value = container[part]
    return tuple(steps)


def dotted(key: Key) -> str:
    """Return a key as people write it: `methods.scalearn.learning_rate[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in key).removeprefix(".")


def _shown(key: str) -> str:
    """Return a key without characters that control a terminal, such as an override of the text direction, and cut if very long."""
    text = key if len(key) <= 100 else key[:97] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _sentence(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    path = detail["loc"]
    found = located(document, path)
    place, name = document.place(found), dotted(found)
    if detail["type"] in ("extra_forbidden", "missing"):
        block = dotted(located(document, path[:-1]))
        where = f" in '{block}'" if block else ""
        if detail["type"] == "missing":
            return f"{place}: the key '{path[-1]}' is missing{where}"
        sentence = unknown("key", str(path[-1]), _keys(model, path), where=f"'{block}'" if block else None)
        return f"{place}: {sentence}".rstrip(".")
    if detail["type"] in ("too_short", "string_too_short"):
        return f"{place}: '{name}' is empty: give at least one entry"
    return f"{place}: '{name}' must be {expected(detail)}, not {describe(detail['input'])}"


def expected(detail: ErrorDetails) -> str:
    """Return what a value should have been, in words: `at least 1`."""
    error_type = detail["type"]
    context = detail.get("ctx", {})
    if error_type in _TYPES:
        return _TYPES[error_type]
    if error_type == "literal_error":
        return f"one of {context['expected']}"
    if error_type == "string_too_long":
        return f"text of at most {context['max_length']} characters"
    for bound, words in _BOUNDS.items():
        if bound in context:
            return f"{words} {context[bound]:g}"
    return f"valid ({detail['msg']})"


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return the keys that the block at a path may have. The last part of the path is the wrong key."""
    for part in path[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation contains at any depth: `dict[str, tuple[MethodRow, ...]]` holds `MethodRow`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := _model_in(item))), None)
