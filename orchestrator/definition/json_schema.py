"""The schema of sweep files as a JSON schema, so that editors complete and check them, with what the source says of each key.

docs/reference.py writes it, and the tables of keys in docs/sweeps.md, from the same texts.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

import scalearn.config
from orchestrator.definition import schema
from orchestrator.definition.schema import SweepSchema
from scalearn.backbone.registry import backbone_names
from scalearn.config import OptimisationConfig
from scalearn.methods.registry import METHODS, Method
from scalearn.tasks import benchmark_names
from scalearn.tasks.user_task import KEYS, METRICS

Json = dict[str, Any]

_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]+\)")


def json_schema() -> Json:
    """Return the JSON schema (draft 2020-12) of sweep files, with a description for every key.

    It accepts all that is a sweep. It knows neither the tasks of a benchmark nor what keys have to do with one another, so `plan` refuses
    more. Methods of other packages are accepted.
    """
    whole = SweepSchema.model_json_schema(schema_generator=_Generator)
    _count_items(whole)
    keys, blocks, required = whole["properties"], whole["$defs"], whole.pop("required")
    keys["extends"] = {"type": "string", "description": keys["extends"]["description"]}
    keys["benchmark"]["examples"] = list(benchmark_names())
    keys["backbone"]["examples"] = list(backbone_names())
    keys["tasks"]["anyOf"][0]["additionalProperties"] = {"$ref": "#/$defs/Task"}
    blocks["Task"] = _task_block()
    for key, method in METHODS.items():
        blocks[f"methods.{key}"] = _method_block(method)
        rows = json.dumps(keys["methods"]["additionalProperties"]).replace("MethodRow", f"methods.{key}")
        keys["methods"].setdefault("properties", {})[key] = {"description": f"{method.title}.", **json.loads(rows)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sweep file of ScaLearn Orchestrator",
        **whole,
        # A file that extends another may leave out the rest, and set keys inside blocks by dots.
        "if": {"required": ["extends"]},
        "then": {"required": ["name"]},
        "else": {"required": required, "propertyNames": {"pattern": r"^[^.]*$"}},
        "patternProperties": {r"^[^.]+\.[^.]": {}},
    }


def _task_block() -> Json:
    """Return the schema of a definition in `tasks`."""
    values: dict[str, Json] = {key: {} for key in KEYS}
    values["kind"] = {"enum": list(METRICS)}
    metric = {"enum": sorted({metric for metrics in METRICS.values() for metric in metrics})}
    values["metric"] = {"anyOf": [metric, {"type": "array", "items": metric}]}
    values["splits"] = {"type": "object", "propertyNames": {"enum": ["train", "validation", "test"]}}
    values["max_length"] = {"type": "integer", "minimum": 3}
    described = {key: {**value, "description": _plain(KEYS[key])} for key, value in values.items()}
    return {"type": "object", "properties": described, "required": ["columns"], "additionalProperties": False}


def _method_block(method: Method) -> Json:
    """Return the schema of a method's row: that of any row, with the method's own settings."""
    settings = {name: {"description": rule.meaning, "default": rule.default} for name, rule in method.rules.items()}
    own = {"type": ["object", "null"], "properties": settings, "additionalProperties": False}
    return {"allOf": [{"$ref": "#/$defs/MethodRow"}, {"properties": {"settings": own}}]}


@cache
def meanings() -> Mapping[str, Mapping[str, str]]:
    """Return the text below each field in the source of the schema and of `scalearn.config`, in Markdown, by class and field."""
    trees = [ast.parse(inspect.getsource(module)) for module in (schema, scalearn.config)]
    return {node.name: dict(_texts(node)) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise([*node.body, ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            yield field.target.id, " ".join(str(text).split()).replace("None:", "`null`:")


def _meaning(model: type[BaseModel], key: str) -> str:
    owners = (*(base.__name__ for base in model.__mro__), OptimisationConfig.__name__)
    return _plain(next(meanings()[owner][key] for owner in owners if key in meanings().get(owner, {})))


def _plain(text: str) -> str:
    """Return Markdown without its links, which lead nowhere in an editor."""
    return _LINK.sub(r"\1", text)


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, which knows neither the short forms that a file may use, nor where this project describes its keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Set none: a title would repeat the key."""
        return False

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Json:
        """Accept what the function in front turns into the value."""
        inner = super().function_before_schema(schema)
        short: Json = _SHORT[schema["function"]["function"]](inner)
        return short

    def model_schema(self, schema: core_schema.ModelSchema) -> Json:
        """Describe every key."""
        found = super().model_schema(schema)
        found.pop("title", None)
        for key, value in found.get("properties", {}).items():
            value["description"] = _meaning(schema["cls"], key)
            if isinstance(schema["cls"].model_fields[key].default, BaseModel):
                del value["default"]  # the block itself says what it is without its keys
        return found


def _count_items(part: Any) -> None:
    """Write the least number of items as that of a list. Where a function stands before the list, pydantic writes it as that of a text."""
    if isinstance(part, dict) and "minLength" in part and ("anyOf" in part or part.get("type") == "array"):
        least = part.pop("minLength")
        for option in part.get("anyOf", [part]):
            if option.get("type") == "array":
                option["minItems"] = least
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _count_items(inner)


def _one_or(inner: Json) -> Json:
    return {"anyOf": [inner["items"], inner]}


def _value_or(inner: Json) -> Json:
    return {"anyOf": [inner["additionalProperties"], inner]}


def _or_nothing(inner: Json) -> Json:
    return {"anyOf": [inner, {"type": "null"}]}


def _rows(inner: Json) -> Json:
    row = _or_nothing(inner["items"])
    return {"anyOf": [row, inner | {"items": row}]}


_SHORT: Mapping[Any, Any] = {
    schema._as_mapping: _value_or,
    schema._as_tuple: _one_or,
    schema._as_block: _or_nothing,
    schema._as_rows: _rows,
    schema._listed: lambda inner: inner,
}
"""What each function of the schema accepts besides the value itself."""
