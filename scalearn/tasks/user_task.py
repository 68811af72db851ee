"""One's own task: a directory of files, and a few lines that say which columns are what.

    own_task("mine/spam", {"columns": ["subject", "body"], "label": "verdict", "metric": ["macro_f1", "accuracy"]})

reads `<root>/mine/spam/<split>.csv` (or .tsv, .jsonl, .json, .parquet, or what `datasets.save_to_disk` writes). Keys:

    columns     one or two text columns, or format strings over columns such as "{title}: {body}"
    label       the label column (default: label)
    kind        classification (default), regression, multi_label or multiple_choice
    metric      one or several; the first is reported (default: accuracy; regression: pearson; multi_label: macro_f1)
    labels      names of the classes in the order of their numbers (default: those that occur in train, sorted)
    choices     multiple_choice: the columns that hold the choices
    splits      {train: NAME, validation: NAME or null, test: NAME or null}; null is drawn from train with seed 42
    max_length  tokens per input (default: 128)
"""

import json
import string
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from scalearn.errors import UserError
from scalearn.tasks.task import FileSource, Kind, Metric, SplitRule, Task, Template
from scalearn.unknown_name import unknown

KEYS = ("columns", "label", "kind", "metric", "labels", "choices", "splits", "max_length")
METRICS: dict[Kind, tuple[Metric, ...]] = {
    "classification": ("accuracy", "matthews", "f1", "macro_f1"),
    "multiple_choice": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "multi_label": ("macro_f1", "accuracy"),
}
"""The metrics that fit each kind, its default first."""


def own_task(key: str, definition: Mapping[str, Any]) -> Task:
    """The task that a definition describes; what is equal has the same `definition` text, whatever the order of its keys.

    Args:
        key: `benchmark/name`; also the directory below the data root.
        definition: As in the module's docstring; lists may be single values.

    Raises:
        UserError: The definition is incomplete or contradicts itself.
    """
    where = f"the definition of task {key}"
    for name in definition:
        if name not in KEYS:
            raise UserError(unknown("key", str(name), KEYS, where=where))
    if key.count("/") != 1 or not all(key.split("/")):
        raise UserError(f"Task {key!r} needs a name of the form benchmark/task.")
    kind = _one_of(definition.get("kind", "classification"), METRICS, "kind", where)
    columns, choices = _texts(definition, "columns", where), _texts(definition, "choices", where)
    labels = _texts(definition, "labels", where) or None
    if not 1 <= len(columns) <= 2:
        raise UserError(f"In {where}, columns names {len(columns)} text columns; name one or two.")
    if (kind == "multiple_choice") != bool(choices):
        raise UserError(
            f"In {where}, kind is {kind} and choices names {len(choices)} columns; multiple_choice needs choices, others take none."
        )
    if labels and kind in ("regression", "multiple_choice"):
        raise UserError(f"In {where}, labels has no meaning for kind {kind}; remove it.")
    if kind == "multiple_choice":
        labels, columns = choices, (columns[0] if len(columns) == 1 else " ".join(map(_format, columns)), "{choice}")
    length = definition.get("max_length", 128)
    if not isinstance(length, int) or isinstance(length, bool) or length < 3:
        raise UserError(f"In {where}, max_length is {length!r}; give a number of tokens.")
    formats = [_format(column) for column in columns]
    return Task(
        key=key,
        kind=kind,
        templates={"default": Template(formats[0], formats[1] if len(formats) == 2 else None)},
        columns=tuple(dict.fromkeys(name for text in formats for name in _fields(text, where) if name != "choice" or not choices)),
        metrics=_metrics(definition, kind, where),
        source=FileSource(definition=json.dumps(_plain(definition), sort_keys=True, separators=(",", ":"))),
        label_column=str(definition.get("label", "label")),
        label_names=labels,
        splits=_splits(definition.get("splits", {}), where, stratify=kind in ("classification", "multiple_choice")),
        max_length=length,
        choices=choices,
    )


def definition_of(task: Task) -> str | None:
    """The canonical text of an own task's definition (`DataConfig.own`); None for registered tasks."""
    return (task.source.definition or None) if isinstance(task.source, FileSource) else None


def _texts(definition: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = definition.get(key, ())
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(each, (str, int)) and str(each) for each in values) or len(set(values)) < len(values):
        raise UserError(f"In {where}, {key} is {value!r}; give one name or a list of different names.")
    return tuple(map(str, values))


def _one_of(value: Any, known: Iterable[Kind], what: str, where: str) -> Kind:
    for each in known:
        if value == each:
            return each
    raise UserError(unknown(what, str(value), known, where=where))


def _metrics(definition: Mapping[str, Any], kind: Kind, where: str) -> tuple[Metric, ...]:
    names = _texts(definition, "metric", where) or METRICS[kind][:1]
    for name in names:
        if name not in METRICS[kind]:
            what = f"metric of kind {kind}" if name in get_args(Metric) else "metric"
            raise UserError(unknown(what, name, METRICS[kind], where=where))
    return tuple(metric for name in names for metric in METRICS[kind] if metric == name)


def _splits(value: Any, where: str, *, stratify: bool) -> SplitRule:
    names = {"train": "train", "validation": "validation", "test": "test"}
    if not isinstance(value, Mapping):
        raise UserError(f"In {where}, splits is {value!r}; give a mapping such as {{train: train, validation: dev, test: null}}.")
    for name, published in value.items():
        if name not in names:
            raise UserError(unknown("split", str(name), names, where=where))
        if not (isinstance(published, str) and published) and (published is not None or name == "train"):
            raise UserError(f"In {where}, the {name} split is {published!r}; give the name of its file without the ending.")
    return SplitRule(**{**names, **value}, stratify=stratify)


def _format(column: str) -> str:
    """A column's name as a format string; a format string as it is."""
    return column if "{" in column else f"{{{column}}}"


def _fields(text: str, where: str) -> tuple[str, ...]:
    try:
        fields = tuple(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)
    except ValueError as error:
        raise UserError(f"In {where}, columns holds {text!r}, which is no format string ({error}).") from None
    if not fields or not all(name and not set(name) & set(".[]!:") for name in fields):
        raise UserError(f"In {where}, columns holds {text!r}; name columns in braces, as in '{{title}}: {{body}}'.")
    return fields


def _plain(value: Any) -> Any:
    """The definition as JSON values, so that lists and tuples, and any order of keys, are the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
