"""Which parts of a configuration make two jobs the same: one walk over its fields, for fingerprints, records and checkpoints.

In `scalearn.config` each field is marked if it is a place or was added later.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal

from scalearn.config import ADDED_LATER, PLACE, ExternalAdapter, JobConfig

_Kept = Literal["everything", "identity", "departures"]
"""The fields that a walk keeps: all, or those that enter the fingerprint, or only those of them that differ from their default."""


def to_plain(value: Any) -> Any:
    """Return a configuration as JSON values (dict, list, str, int, float, bool, None), with every field.

    Raises:
        TypeError: JSON cannot hold a value exactly: NaN, infinity, a path, a set, bytes, a callable, an arbitrary object.
    """
    return _walk(value, "value", "everything")


def canonical_json(value: Any) -> str:
    """Return the JSON text that identifies a value: sorted keys, no spaces, without places and later fields at their default.

    Raises:
        TypeError: As for `to_plain`.
    """
    return json.dumps(_walk(value, "value", "identity"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identifying_parts(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that enter its identity, by name and unchanged."""
    return {item.name: getattr(value, item.name) for item in _kept_fields(value, "identity")}


def identifying_fields(job: JobConfig) -> dict[str, Any]:
    """Return what identifies a job, field by field, such as `{"seed": 3, "optimisation.learning_rate": 0.006, ...}`.

    Fields at their default are left out, so that a field that a later version adds changes nothing.

    Returns:
        Dotted names and JSON values; tuples are lists.
    """
    return dict(flat(_walk(job, "job", "departures")))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested JSON values with dotted names such as `data.0.task`. A list of plain values is one leaf."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def is_place(name: str) -> bool:
    """Tell whether a dotted name of `flat` belongs to a field that only tells a place."""
    places = {item.name for kind in (JobConfig, ExternalAdapter) for item in fields(kind) if item.metadata == PLACE}
    return not name.startswith("settings.") and name.rpartition(".")[2] in places


def _kept_fields(value: Any, kept: _Kept) -> Iterator[Field[Any]]:
    for item in fields(value):
        if kept != "everything":
            optional = kept == "departures" or item.metadata == ADDED_LATER
            if item.metadata == PLACE or (optional and getattr(value, item.name) == item.default):
                continue
        yield item


def _walk(value: Any, where: str, kept: _Kept) -> Any:
    if isinstance(value, Enum):
        return _walk(value.value, where, kept)
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float or (isinstance(value, float) and kept == "departures"):  # a caller may give `job` numpy's floats
        if kept != "departures" and not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which JSON cannot hold")
        # Values that compare equal (1 and 1.0, 0.0 and -0.0) must have one identity.
        return int(value) if kept == "identity" and value.is_integer() and abs(value) < 2**53 else float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _walk(getattr(value, item.name), f"{where}.{item.name}", kept) for item in _kept_fields(value, kept)}
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise TypeError(f"{where} has a key that is not a string")
        return {key: _walk(item, f"{where}.{key}", kept) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_walk(item, f"{where}[{index}]", kept) for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical form")
