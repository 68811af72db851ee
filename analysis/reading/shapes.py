"""The form of the JSON files that jobs write, as far as the analysis needs it. A file of another form was not written by a job."""

from typing import Any

Number = (int, float)
LARGEST = 2**63
"""A number larger than any that a job writes. It excludes infinity too, which JSON lacks but 1e999 gives."""

NAMES = {
    "methods": {"*": {"title": str, "family": str, "order": Number, "tuned": [str]}},
    "tasks": {"*": {"title": str, "order": Number, "metric": str}},
}
JOB = {
    "stage": str,
    "config": {
        "benchmark": str,
        "stage": str,
        "method": str,
        "data": [{"task": str}],
        "sources": [str],
        "optimisation": {"learning_rate": Number},
        "seed": int,
        "settings": {},
        "external": [{"name": str, "origin": str}],
    },
    "parents": [str],
    "provenance": {"packages": {}},
}
RESULT = {
    "scores": {"*": {"*": {"*": Number}}},
    "primary_metric": {"*": str},
    "parameters": {"*": Number},
    "timing": {"*": Number},
    "rows": {"*": {"*": int}},
    "warnings": [str],
    "data_warnings": {"*": [str]},
    "omega": {"mean": [[Number]], "start": Number},
}
HISTORY_LINE = {
    **dict.fromkeys(("epoch", "time", "seconds", "train_loss"), Number),
    "step": int,
    "tasks": {"*": {}},
    "validation": {"tasks": {"*": {}}},
}
MANIFEST = {
    **dict.fromkeys(("name", "yaml", "benchmark", "file", "created", "tracking_uri", "run_id"), str),
    "targets": [str],
    "methods": [str],
    "searched": {"*": [str]},
    "objectives": [str],
    **dict.fromkeys(("overrides", "nodes"), list),
}
MANIFEST_LINE = {
    **dict.fromkeys(("node", "stage", "method", "task"), str),
    "seed": int,
    "learning_rate": Number,
    "parents": [str],
}


def has_form(value: Any, form: Any) -> bool:
    """Tell whether a JSON value has a form. Null and absent values fit. Keys that the form does not name may hold anything.

    Args:
        value: The value.
        form: A type or several, a list with one form for all elements, or a mapping of keys to forms, in which `*` means every key.
    """
    if value is None:
        return True
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(item, form[0]) for item in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        named = dict.fromkeys(value, form["*"]) if "*" in form else form
        return all(has_form(value.get(key), inner) for key, inner in named.items())
    if isinstance(value, (int, float)) and not -LARGEST < value < LARGEST:
        return False
    return isinstance(value, form) and not isinstance(value, bool)
