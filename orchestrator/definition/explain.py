"""One sentence for an error that pydantic found: the place, the key, what is allowed, and what the file has."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "below"}


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> str:
    """Return the sentence for the first error. Unknown keys come first, since they cause other errors.

    Args:
        error: The error that validation raised.
        document: The document that was validated.
        model: The model of the whole document.
    """
    found = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    return f"{_sentence(found[0], document, model)}."


def locate(document: Document, path: Sequence[str | int]) -> tuple[str, str]:
    """Return the place in the source and the dotted name of a validated value.

    Validation reads short forms as long ones (`seeds: 3` as `seeds.default[0]`). Parts that are not in the source are left out.
    """
    value: Any = document.data
    steps: list[str | int] = []
    for part in path:
        container: Any = value
        if (isinstance(value, Mapping) and part in value) or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            steps.append(part)
            value = container[part]
    return document.place(tuple(steps)), dotted(tuple(steps))


def dotted(key: Key) -> str:
    """Return a key as people write it: `methods.scalearn.learning_rate[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in key).removeprefix(".")


def _shown(key: str) -> str:
    """Return a key without characters that control a terminal, such as an override of the text direction, and cut if very long."""
    text = key if len(key) <= 100 else key[:97] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _sentence(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    path = detail["loc"]
    if detail["type"] in ("extra_forbidden", "missing"):
        place, block = locate(document, path[:-1])
        where = f" in '{block}'" if block else ""
        if detail["type"] == "missing":
            return f"{place}: the key '{path[-1]}' is missing{where}"
        place, _ = locate(document, path)
        sentence = unknown("key", str(path[-1]), _keys(model, path), where=f"'{block}'" if block else None)
        return f"{place}: {sentence}".rstrip(".")
    place, name = locate(document, path)
    if detail["type"] in ("too_short", "string_too_short"):
        return f"{place}: '{name}' is empty: give at least one entry"
    return f"{place}: '{name}' must be {_expected(detail)}, not {describe(detail['input'])}"


def _expected(detail: ErrorDetails) -> str:
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
