"""Refuses rows that would train something else than their task: one sentence that names task, file and row."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, List, Value

from scalearn.data.read import Published, in_memory
from scalearn.errors import UserError
from scalearn.tasks.task import Task

LABEL = "label"
"""The column that holds the label once rows are checked, whatever the published column is called."""


def check_texts(task: Task, published: Published) -> Dataset:
    """The rows, with every needed column present and every text a text that is neither null nor blank.

    Raises:
        UserError: Otherwise; rows are counted from 0.
    """
    rows, place = published.rows, published.place
    if len(rows) == 0:
        raise UserError(f"Task {task.key}: {place} holds no rows; fetch or write it again.")
    needed = [*task.columns, *task.choices, *task.other_columns, *([] if task.kind == "per_candidate" else [task.label_column])]
    absent = [column for column in dict.fromkeys(needed) if column not in rows.column_names]
    if absent:
        raise UserError(f"Task {task.key}: {place} lacks the column {absent[0]!r}; its columns are {', '.join(rows.column_names)}.")
    for column in (*task.columns, *task.choices):
        values = _column(rows, column)
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            if pa.types.is_nested(values.type):
                raise UserError(f"Task {task.key}: column {column!r} of {place} holds no text but {values.type}; name the text column.")
            values = values.cast(pa.string())
            rows = _with_column(rows, column, values, Value("string"))
        _refuse(task, place, pc.is_null(values), f"column {column!r} is null")
        if column not in task.may_be_empty:
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
            _refuse(task, place, blank, f"column {column!r} holds no text")
    return rows


def label_names(task: Task, train: Dataset) -> tuple[str, ...] | None:
    """The task's classes: as it declares them, as the published features do, or the values that occur in train, sorted.

    Args:
        task: The task.
        train: The whole published train split.

    Returns:
        The names in the order of their numbers; None for regression.
    """
    if task.head == "regression":
        return None
    if task.label_names is not None:
        return task.label_names
    feature = train.features[task.label_column]
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = _column(train, task.label_column)
    if _is_list(values):
        values = pc.list_flatten(values)
    return tuple(str(value) for value in sorted(set(values.to_pylist()) - {None, -1}))


def with_labels(task: Task, rows: Dataset, place: str, names: tuple[str, ...] | None) -> Dataset:
    """The rows with a column `label` that holds the number of the class, a list of such numbers, or a float.

    Raises:
        UserError: A label is null, hidden (-1) or unknown.
    """
    if task.kind == "per_candidate":
        return rows
    values = _column(rows, task.label_column)
    if (task.kind == "multi_label") != _is_list(values):
        wanted = "lists of labels" if task.kind == "multi_label" else "one label per row"
        raise UserError(f"Task {task.key}: column {task.label_column!r} of {place} holds {values.type}; kind {task.kind} needs {wanted}.")
    if task.label_column != LABEL and LABEL in rows.column_names:
        rows = rows.remove_columns(LABEL)
    rows = rows.rename_column(task.label_column, LABEL) if task.label_column != LABEL else rows
    _refuse(task, place, pc.is_null(values), f"column {task.label_column!r} is null")
    if task.head == "regression":
        return _with_column(rows, LABEL, _numbers(task, place, values), Value("float32"))
    assert names is not None
    feature = rows.features[LABEL]
    if task.kind == "multi_label":
        published = _published_names(feature.feature if hasattr(feature, "feature") else None)
        flat = _codes(task, place, pc.list_flatten(values), names, published, parents=pc.list_parent_indices(values))
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(values).to_numpy(zero_copy_only=False))])
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
        return _with_column(rows, LABEL, column, List(ClassLabel(names=list(names))))
    return _with_column(rows, LABEL, _codes(task, place, values, names, _published_names(feature)), ClassLabel(names=list(names)))


def _published_names(feature: object) -> Sequence[str] | None:
    """Names that the file gives its classes; None where it numbers them and no more."""
    if not isinstance(feature, ClassLabel) or list(feature.names) == [str(number) for number in range(feature.num_classes)]:
        return None
    names: Sequence[str] = feature.names
    return names


def _codes(
    task: Task, place: str, values: pa.Array, names: tuple[str, ...], published: Sequence[str] | None, parents: pa.Array | None = None
) -> pa.Array:
    """Class numbers in the order of `names`, from published numbers or from names."""
    index = {name: number for number, name in enumerate(names)}
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_integer(values.type):
        _refuse(task, place, pc.equal(values, -1), "the label is -1, which stands for a hidden label; use a split with labels", parents)
        # Numbers count the classes, unless the classes are themselves numbers (stars 1 to 5).
        counts = published is not None or not all(name.isdecimal() for name in names)
        mapping = {str(number): index.get(name, -1) for number, name in enumerate(published or names)} if counts else index
    else:
        mapping = index
    values = values.cast(pa.string())
    known = list(mapping)
    found = pc.index_in(values, value_set=pa.array(known, pa.string()))
    codes = pc.take(pa.array([mapping[name] for name in known], pa.int64()), found)
    unknown = pc.or_(pc.is_null(codes), pc.equal(pc.fill_null(codes, -1), -1))
    if pc.any(unknown).as_py():
        wrong = values[pc.index(unknown, True).as_py()].as_py()
        _refuse(task, place, unknown, f"the label {wrong!r} is none of {', '.join(names)}", parents)
    return codes


def _numbers(task: Task, place: str, values: pa.Array) -> pa.Array:
    try:
        numbers = values.cast(pa.float32())
    except pa.ArrowInvalid as error:
        raise UserError(f"Task {task.key}: {place}: column {task.label_column!r} must hold numbers ({error}).") from None
    _refuse(task, place, pc.invert(pc.is_finite(numbers)), "the label is not a finite number")
    return numbers


def _column(rows: Dataset, column: str) -> pa.Array:
    """One column as a single Arrow array."""
    values = rows.with_format("arrow")[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _is_list(values: pa.Array) -> bool:
    return bool(pa.types.is_list(values.type) or pa.types.is_large_list(values.type))


def _with_column(rows: Dataset, column: str, values: pa.Array, feature: object) -> Dataset:
    """The rows with one column replaced, in its place."""
    table = rows.with_format("arrow")[:]
    position = table.column_names.index(column)
    features = rows.features.copy()
    features[column] = feature
    table = table.set_column(position, column, values.cast(features.arrow_schema.field(column).type))
    return in_memory(table.replace_schema_metadata(features.arrow_schema.metadata))


def _refuse(task: Task, place: str, wrong: pa.Array, complaint: str, parents: pa.Array | None = None) -> None:
    """Raises the sentence for the first row of which `wrong` holds."""
    wrong = pc.fill_null(wrong, False)
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        row = row if parents is None else parents[row].as_py()
        raise UserError(f"Task {task.key}: {place}, row {row}: {complaint}.")


def check_lists(task: Task, rows: Dataset, place: str, columns: Iterable[str]) -> None:
    """Refuses a row whose list column is null or empty.

    Raises:
        UserError: Such a row exists.
    """
    for column in columns:
        values = _column(rows, column)
        if not _is_list(values):
            raise UserError(f"Task {task.key}: column {column!r} of {place} holds {values.type}; it must hold lists.")
        lengths = pc.list_value_length(values)
        _refuse(task, place, pc.equal(pc.fill_null(lengths, 0), 0), f"column {column!r} is empty")
