"""Read one published split into memory, from local files, the hub or a package."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable

from scalearn.data.hub_files import hub_files
from scalearn.errors import UserError
from scalearn.tasks.arrow_texts import plain
from scalearn.tasks.columns import needed_columns
from scalearn.tasks.origin import broken, split_files, task_directory
from scalearn.tasks.task import FileSource, HubSource, PackageSource, Task
from scalearn.tasks.text_files import TEXT_FORMATS, TextFile, read_text_file

_ALWAYS_ALLOWED = 1 << 30
"""Bytes of rows that a parquet file of any size may expand to."""
_LARGEST_EXPANSION = 256
"""Bytes of rows per byte of a larger file. Texts that are repeated for each of their questions stay far below."""
_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class PublishedSplit:
    """One split, as it was published."""

    rows: Dataset
    place: str
    """File, or data set and split, for error messages."""
    columns: Sequence[str]
    """Names of all its columns. For text files and own tasks, `rows` has only those that the task reads."""
    warnings: tuple[str, ...] = ()
    """What is ambiguous in its files, in one sentence each."""


def read_splits(task: Task, root: Path | None) -> dict[str, PublishedSplit]:
    """Return every published split that the task's rule names.

    Raises:
        UserError: A file is absent or unreadable, the hub cannot be reached, or a package is not installed.
    """
    match task.source:
        case PackageSource(package, version, read):
            texts, labels = read()
            rows = in_memory(pa.table({"text": texts, "label": labels}))
            return {task.splits.train: PublishedSplit(rows, f"package {package} {version}", rows.column_names)}
        case HubSource() as source if root is None:
            files = hub_files(task.key, source, task.splits.published)
            return {split: _from_files(task, files[split]) for split in files}
    directory = task_directory(task, root)
    return {split: _from_files(task, split_files(task, directory, split)) for split in task.splits.published}


def in_memory(table: pa.Table) -> Dataset:
    """Return a dataset of a table, with the features that the table's metadata declare."""
    # A random fingerprint, since computing one would pickle the whole table, and nothing here is cached by fingerprint.
    return Dataset(InMemoryTable(table), fingerprint=uuid4().hex)


def _from_files(task: Task, files: list[Path]) -> PublishedSplit:
    if files[0].suffix in (".arrow", ".json") and (files[0].parent / "state.json") in files:
        directory = files[0].parent
        with _readable(task, directory):
            # In memory, since a memory-mapped dataset would write its split indices beside the user's files.
            rows = Dataset.load_from_disk(str(directory), keep_in_memory=True)
        return PublishedSplit(rows, str(directory), rows.column_names)
    parts: list[Dataset] = []
    columns: dict[str, None] = {}
    warnings: list[str] = []
    for path in files:
        with _readable(task, path):
            if path.suffix in TEXT_FORMATS:
                text = read_text_file(task, path)
                table, names = _text_table(task, path, text), text.names
                warnings += text.warnings
            else:
                table = _parquet_table(path)
                names = tuple(table.column_names)
                table = _needed(task, path, table)
            parts.append(in_memory(table))
            columns |= dict.fromkeys(names)
    rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    place = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return PublishedSplit(rows, place, tuple(columns), tuple(warnings))


def _text_table(task: Task, path: Path, text: TextFile) -> pa.Table:
    """Return the columns as strings. Columns that are neither text nor label get the type that they look like."""
    arrays = {}
    for name, values in text.columns.items():
        if name in task.other_columns:
            arrays[name] = pa.array(values)
            continue
        lists = [isinstance(value, list) for value in values if value is not None]
        if any(lists) and not all(lists):
            raise UserError(
                f"Task {task.key}: {path}: column {name!r} holds lists in some rows and single values in others; write all alike."
            )
        arrays[name] = pa.array(values, pa.list_(pa.string()) if any(lists) else pa.string())
    return pa.table(arrays)


def _parquet_table(path: Path) -> pa.Table:
    """Read a file in pieces, since a file of kilobytes can expand to terabytes by repeating one value."""
    batches, size = [], 0
    limit = max(_ALWAYS_ALLOWED, _LARGEST_EXPANSION * path.stat().st_size)
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
            batches.append(batch)
            size += batch.nbytes
            if size > limit:
                raise ValueError(f"its rows take more than {limit >> 20} MiB, {limit // path.stat().st_size} times its own size")
        return pa.Table.from_batches(batches, schema=file.schema_arrow)


def _needed(task: Task, path: Path, table: pa.Table) -> pa.Table:
    """Return only the columns that an own task reads. Others may have types that `datasets` does not know, or share a name."""
    if not isinstance(task.source, FileSource):
        return table
    names = table.column_names
    wanted = [name for name in needed_columns(task) if name in names]
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"Task {task.key}: {path} has {names.count(name)} columns named {name!r}; give each a name of its own.")
    columns = {name: plain(table.column(names.index(name))) for name in wanted}
    return pa.table(columns, metadata=table.schema.metadata)


@contextmanager
def _readable(task: Task, path: Path) -> Iterator[None]:
    """Turn any error from a broken file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise broken(task, path, error) from error
