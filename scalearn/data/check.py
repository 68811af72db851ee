"""Refuse rows that would train something other than their task, with one sentence that names task, file and row."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, List, Value

from scalearn.data.read import PublishedSplit, in_memory
from scalearn.errors import UserError
from scalearn.tasks.arrow_texts import as_texts, is_list
from scalearn.tasks.columns import refuse_absent
from scalearn.tasks.labels import class_numbers, found_names, label_warnings
from scalearn.tasks.spelling import cut, listed, shown
from scalearn.tasks.task import HubSource, Task

LABEL = "label"
"""The column that holds the label after the check, whatever the published column is called."""


def check_texts(task: Task, published: PublishedSplit) -> Dataset:
    """Return the rows, if every needed column is present and no text in them is null or blank.

    Raises:
        UserError: They are not so. Rows are counted from 0.
    """
    rows, place = published.rows, published.place
    refuse_absent(task, place, published.columns)
    if len(rows) == 0:
        raise UserError(f"Task {task.key}: {place} holds no rows; fetch or write it again.")
    for column in (*task.columns, *task.choices):
        values = _column(rows, column)
        if pa.types.is_nested(values.type):
            kind = cut(str(values.type))
            raise UserError(f"Task {task.key}: column {column!r} of {place} holds no text but {kind}; name the text column.")
        texts = as_texts(f"Task {task.key}: {place}", column, values)
        if texts.type != values.type:
            values, rows = texts, _with_column(rows, column, texts, Value("string"))
        _refuse(task, place, pc.is_null(values), f"column {column!r} is null")
        if column not in task.may_be_empty:
            _refuse(task, place, _is_blank(values), f"column {column!r} holds no text")
    return rows


def label_names(task: Task, train: Dataset, place: str) -> tuple[str, ...] | None:
    """Return the task's classes: those that it declares, else those in the published features, else the sorted labels of train.

    The classes of a multi-label task are the labels in train, whatever the features name (PROTOCOL, Data).

    Args:
        task: The task.
        train: The whole published train split.
        place: What error messages call the file.

    Returns:
        The names in the order of their numbers. None: the task is a regression.

    Raises:
        UserError: A multi-label task has no labels, or the column holds neither texts nor numbers.
    """
    if task.head == "regression":
        return None
    if task.label_names is not None:
        return task.label_names
    published = published_names(task, train)
    if published is not None and task.kind != "multi_label":
        return published
    values = _column(train, task.label_column)
    parents = pc.list_parent_indices(values) if is_list(values) else None
    labels = _label_texts(task, place, values if parents is None else pc.list_flatten(values), published, parents)
    occurring = {label for label in pc.unique(labels).to_pylist() if label and not label.isspace() and label != _hidden(task)}
    if not occurring and task.kind == "multi_label":
        raise UserError(f"Task {task.key}: no row of train has a label in column {task.label_column!r}; check that column.")
    if published is None:
        return found_names(occurring)
    return tuple(name for name in published if name in occurring)


def published_names(task: Task, rows: Dataset) -> tuple[str, ...] | None:
    """Return the names that a file gives its classes. None: it holds only labels."""
    feature = rows.features.get(task.label_column)
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def with_labels(task: Task, rows: Dataset, place: str, names: tuple[str, ...] | None, *, ordered: bool) -> Dataset:
    """Return the rows with a column `label` that holds the number of the class, a list of such numbers, or a float.

    Args:
        task: The task.
        rows: Its rows, with the label as it was published.
        place: What error messages call the file.
        names: The task's classes.
        ordered: Whether the order of the names was declared or published, so that numbers may refer to them.

    Raises:
        UserError: A label is null, empty, hidden or unknown.
    """
    if task.kind == "per_candidate":
        return rows
    values = _column(rows, task.label_column)
    if (task.kind == "multi_label") != is_list(values):
        wanted = "lists of labels" if task.kind == "multi_label" else "one label per row"
        raise UserError(
            f"Task {task.key}: column {task.label_column!r} of {place} holds {cut(str(values.type))}; kind {task.kind} needs {wanted}."
        )
    published = published_names(task, rows)
    if task.label_column != LABEL and LABEL in rows.column_names:
        rows = rows.remove_columns(LABEL)
    rows = rows.rename_column(task.label_column, LABEL) if task.label_column != LABEL else rows
    _refuse(task, place, pc.is_null(values, nan_is_null=task.head != "regression"), f"column {task.label_column!r} is null")
    if task.head == "regression":
        return _with_column(rows, LABEL, _numbers(task, place, values), Value("float32"))
    assert names is not None
    if task.kind == "multi_label":
        flat = _codes(task, place, pc.list_flatten(values), names, published, ordered=ordered, parents=pc.list_parent_indices(values))
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(values).to_numpy(zero_copy_only=False))])
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
        return _with_column(rows, LABEL, column, List(ClassLabel(names=list(names))))
    return _with_column(rows, LABEL, _codes(task, place, values, names, published, ordered=ordered), ClassLabel(names=list(names)))


def train_warnings(task: Task, train: Dataset) -> tuple[str, ...]:
    """Return warnings about the labels of the whole published train split, from the result of `with_labels`."""
    if task.kind == "per_candidate":
        return ()
    feature, values = train.features[LABEL], _column(train, LABEL)
    occurring = pc.unique(pc.list_flatten(values) if is_list(values) else values).to_pylist()
    names = getattr(feature, "feature", feature)
    return label_warnings(task, [names.int2str(each) if isinstance(names, ClassLabel) else f"{each:g}" for each in occurring])


def _hidden(task: Task) -> str | None:
    """Return the label that means that the real label was not published."""
    return task.source.hidden_label if isinstance(task.source, HubSource) else None


def _label_texts(task: Task, place: str, values: pa.Array, published: Sequence[str] | None, parents: pa.Array | None = None) -> pa.Array:
    """Return the labels as text, by the names in the file if it has names."""
    if published is None or not pa.types.is_integer(values.type):
        return as_texts(f"Task {task.key}: {place}", task.label_column, values, parents)
    inside = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(published)))
    named = pc.take(pa.array(published, pa.string()), pc.if_else(inside, values, None))
    return pc.if_else(inside, named, values.cast(pa.string()))


def _codes(
    task: Task,
    place: str,
    values: pa.Array,
    names: tuple[str, ...],
    published: Sequence[str] | None,
    *,
    ordered: bool,
    parents: pa.Array | None = None,
) -> pa.Array:
    """Return the class numbers in the order of `names`."""
    labels = _label_texts(task, place, values, published, parents)
    _refuse(task, place, pc.is_null(labels), "a label is null", parents)
    _refuse(task, place, _is_blank(labels), f"the label in column {task.label_column!r} is empty", parents)
    hidden = _hidden(task)
    complaint = f"the label is {hidden}, which stands for a hidden label; use a split with labels"
    _refuse(task, place, pc.equal(labels, pa.scalar(hidden, pa.string())), complaint, parents)
    numbers: Mapping[str, int | None] = class_numbers(pc.unique(labels).to_pylist(), names, ordered=ordered)
    known = pa.array(list(numbers), pa.string())
    codes = pc.take(pa.array(list(numbers.values()), pa.int64()), pc.index_in(labels, value_set=known))
    unknown = pc.is_null(codes)
    if pc.any(unknown).as_py():
        wrong = labels[pc.index(unknown, True).as_py()].as_py()
        _refuse(task, place, unknown, f"the label {shown(wrong)} is none of {listed(names)}", parents)
    return codes


def _numbers(task: Task, place: str, values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        _refuse(task, place, _is_blank(values), f"the label in column {task.label_column!r} is empty")
        texts = as_texts(f"Task {task.key}: {place}", task.label_column, values).to_pylist()
        wrong = next((number for number, text in enumerate(texts) if not _is_number(text)), None)
        if wrong is not None:
            raise UserError(
                f"Task {task.key}: {place}, row {wrong}: the label {shown(texts[wrong])} is no number; kind regression needs numbers."
            )
        values = pa.array([float(text) for text in texts], pa.float64())
    try:
        # Through float64: a whole number that float32 does not hold is rounded, as it is when read from a text file.
        numbers = values.cast(pa.float64(), safe=False).cast(pa.float32())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"Task {task.key}: {place}: column {task.label_column!r} must hold numbers ({error}).") from None
    _refuse(task, place, pc.invert(pc.is_finite(numbers)), "the label is not a finite number")
    return numbers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads it as a separator of thousands


def _is_blank(texts: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)


def _column(rows: Dataset, column: str) -> pa.Array:
    """Return one column as a single Arrow array."""
    values = rows.with_format("arrow")[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _with_column(rows: Dataset, column: str, values: pa.Array, feature: object) -> Dataset:
    """Return the rows with one column replaced at its position."""
    table = rows.with_format("arrow")[:]
    position = table.column_names.index(column)
    features = rows.features.copy()
    features[column] = feature
    table = table.set_column(position, column, values.cast(features.arrow_schema.field(column).type))
    return in_memory(table.replace_schema_metadata(features.arrow_schema.metadata))


def _refuse(task: Task, place: str, wrong: pa.Array, complaint: str, parents: pa.Array | None = None) -> None:
    """Raise the error for the first row for which `wrong` is true."""
    wrong = pc.fill_null(wrong, False)
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        row = row if parents is None else parents[row].as_py()
        raise UserError(f"Task {task.key}: {place}, row {row}: {complaint}.")


def check_lists(task: Task, rows: Dataset, place: str, columns: Iterable[str]) -> None:
    """Refuse a row whose list column is null or empty.

    Raises:
        UserError: There is such a row.
    """
    for column in columns:
        values = _column(rows, column)
        if not is_list(values):
            raise UserError(f"Task {task.key}: column {column!r} of {place} holds {values.type}; it must hold lists.")
        lengths = pc.list_value_length(values)
        _refuse(task, place, pc.equal(pc.fill_null(lengths, 0), 0), f"column {column!r} is empty")
