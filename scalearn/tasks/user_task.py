"""A user's own task: a directory of files, and a few lines that say what each column is.

    own_task("mine/spam", {"columns": ["subject", "body"], "label": "verdict", "metric": ["macro_f1", "accuracy"]})

reads `<root>/mine/spam/<split>.csv` (or .tsv, .jsonl, .json, .parquet, or what `datasets.save_to_disk` writes).
`KEYS` says what each key means.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, get_args

from scalearn.errors import UserError
from scalearn.tasks.spelling import shown
from scalearn.tasks.task import FileSource, Kind, Metric, SplitRule, Task, Template, column_format, format_pieces
from scalearn.unknown_name import unknown

LABEL = "label"
METRICS: dict[Kind, tuple[Metric, ...]] = {
    "classification": ("accuracy", "matthews", "f1", "macro_f1"),
    "multiple_choice": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "multi_label": ("macro_f1", "accuracy"),
}
"""The metrics that fit each kind. The first is the default."""
KEYS: Mapping[str, str] = MappingProxyType(
    {
        "columns": "One or two text columns, or format strings over columns such as `{title}: {body}`.",
        "label": "The label column. Not given: `label`.",
        "kind": "`classification`, unless given: " + ", ".join(f"`{kind}`" for kind in METRICS if kind != "classification") + ".",
        "metric": "One or several; the first is reported. "
        + "; ".join(f"{kind}: " + ", ".join(f"`{metric}`" for metric in metrics) for kind, metrics in METRICS.items())
        + ". Not given: the kind's first.",
        "labels": "Names of the classes in the order of their numbers; [a label is matched by its text](tasks.md#labels). Not given: "
        "those in train, sorted.",
        "choices": "For `multiple_choice`: the columns that hold the choices.",
        "splits": "Which file serves as which of the splits `train`, `validation`, `test`, by its name without folder and ending; `null` "
        "is drawn from train with seed 42.",
        "max_length": "Tokens per input. Not given: 128.",
    }
)
"""The keys of a definition, and what each means, as docs/sweeps.md and the JSON schema of sweep files say it."""
LONGEST_SPLIT = 200
"""Most bytes of a split's name: the limit of file systems, minus the ending."""


def own_task(key: str, definition: Mapping[str, Any]) -> Task:
    """Return the task that a definition describes. Equal definitions give the same `definition` text, whatever the order of keys.

    Args:
        key: `benchmark/name`, which is also the directory below the data root.
        definition: As in the module's docstring. A list of one may be written as a single value.

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
    columns, choices, (label,) = (_names(definition, name, where) for name in ("columns", "choices", "label"))
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
    texts = tuple(dict.fromkeys(name for text in formats for name in _fields(text, where) if name != "choice" or not choices))
    for name in (*texts, *choices):
        if name in (label, LABEL):
            raise UserError(f"In {where}, {shown(name)} is a text column, but rows keep their label under that name; rename the column.")
    return Task(
        key=key,
        kind=kind,
        templates={"default": Template(formats[0], formats[1] if len(formats) == 2 else None)},
        columns=texts,
        metrics=_metrics(definition, kind, where),
        source=FileSource(definition=json.dumps(_plain(definition), sort_keys=True, separators=(",", ":"))),
        label_column=label,
        label_names=labels,
        splits=_splits(definition.get("splits", {}), where, stratify=kind in ("classification", "multiple_choice")),
        max_length=length,
        choices=choices,
    )


def definition_of(task: Task) -> str | None:
    """Return the canonical text of an own task's definition (`DataConfig.own`). None: the task is registered."""
    return (task.source.definition or None) if isinstance(task.source, FileSource) else None


def _names(definition: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return the columns' names, which may be numbers, or format strings over columns."""
    value = definition.get(key, LABEL if key == "label" else ())
    values = tuple(value) if isinstance(value, (list, tuple)) and key != "label" else (value,)
    names = tuple(map(str, values))
    right = all(isinstance(each, (str, int)) and not isinstance(each, bool) and str(each) for each in values)
    if not right or len(set(names)) < len(names):
        wanted = "the name of one column" if key == "label" else "the name of a column, or a list of different names"
        raise UserError(f"In {where}, {key} is {shown(value)}; give {wanted}, in quotes where YAML reads something else than text.")
    return names


def _texts(definition: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = definition.get(key, ())
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    names = tuple(map(str, values))
    if not all(isinstance(each, (str, int)) and str(each).strip() for each in values) or len(set(names)) < len(names):
        raise UserError(
            f"In {where}, {key} is {shown(value)}; give one name or a list of different names, in quotes where YAML reads something else "
            "than text."
        )
    return names


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
        if not (published is None and name != "train") and not _is_file_name(published):
            raise UserError(f"In {where}, the {name} split is {shown(published)}; give the name of its file, without folder and ending.")
    return SplitRule(**{**names, **value}, stratify=stratify)


def _is_file_name(value: object) -> bool:
    """Tell whether a value names a file in the task's own directory, on every file system."""
    if not isinstance(value, str) or not value or value.startswith(".") or "/" in value or "\\" in value:
        return False
    return len(value.encode(errors="replace")) <= LONGEST_SPLIT and not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value)


def _format(column: str) -> str:
    """Return a column's name as a format string. A format string is returned unchanged."""
    return column if "{" in column or "}" in column else column_format(column)


def _fields(text: str, where: str) -> tuple[str, ...]:
    """Return the columns that a format string names."""
    try:
        fields = tuple(name for name, is_column in format_pieces(text) if is_column)
    except ValueError as error:
        raise UserError(
            f"In {where}, columns holds {shown(text)}, which is no format string from {shown(str(error))} on; name columns in braces, "
            "as in '{title}: {body}', and quote there a name with a dot, a colon, a bracket or a brace, as in '{\"review.text\"}'."
        ) from None
    if not fields:
        raise UserError(f"In {where}, columns holds {shown(text)}; name columns in braces, as in '{{title}}: {{body}}'.")
    return fields


def _plain(value: Any) -> Any:
    """Return the definition as JSON values, so that lists equal tuples, and any order of keys is the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
