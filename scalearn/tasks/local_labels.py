"""What is ambiguous or suspicious in the user's own files, found during planning without a model, torch or datasets."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from scalearn.errors import UserError
from scalearn.secrets import first_line
from scalearn.tasks.arrow_texts import as_texts, is_list, plain
from scalearn.tasks.columns import refuse_absent
from scalearn.tasks.labels import found_names, label_warnings
from scalearn.tasks.origin import broken, split_files, task_directory
from scalearn.tasks.task import Task
from scalearn.tasks.text_files import TEXT_FORMATS, read_text_file


def local_warnings(task: Task, root: Path | None) -> tuple[str, ...]:
    """Return the warnings that an own task's jobs will give about its files, one sentence each, also about files they will refuse.

    Args:
        task: The task, which reads local files.
        root: Directory of local data. None: the task has its own directory.
    """
    sentences: list[str] = []
    try:
        directory = task_directory(task, root)
        for split in task.splits.published:
            labels: set[str] = set()
            for path in split_files(task, directory, split):
                if path.suffix in TEXT_FORMATS and path.name.startswith(f"{split}."):
                    text = read_text_file(task, path)
                    refuse_absent(task, str(path), text.names)
                    sentences += text.warnings
                    labels |= {each for value in text.columns.get(task.label_column, []) for each in _each(value)}
                elif path.suffix in (".parquet", ".arrow"):
                    try:
                        labels |= _arrow_labels(task, path)
                    except (OSError, ValueError, pa.ArrowException) as error:
                        raise broken(task, path, error) from None
            if split == task.splits.train and labels:
                sentences += label_warnings(task, _classes(task, labels))
    except (UserError, OSError) as error:
        sentences.append(first_line(error))
    return tuple(sentences)


def _classes(task: Task, labels: set[str]) -> tuple[str, ...]:
    given = {label for label in labels if label.strip()}
    if task.kind != "regression":
        return found_names(given)
    try:
        return tuple({f"{float(label):g}" for label in given})
    except ValueError:  # the check of the rows will refuse it
        return ()


def _each(value: str | list[str | None] | None) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if each is not None]


def _arrow_labels(task: Task, path: Path) -> set[str]:
    """Return the distinct labels of a parquet or Arrow file, read in pieces."""
    found: set[str] = set()
    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_absent(task, str(path), file.schema_arrow.names)
            if task.label_column in file.schema_arrow.names:
                rows = 0
                for batch in file.iter_batches(columns=[task.label_column]):
                    found |= _distinct(task, path, batch, rows)
                    rows += len(batch)
        return found
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        refuse_absent(task, str(path), batches.schema.names)
        rows = 0
        for batch in batches:
            if task.label_column in batch.schema.names:
                found |= _distinct(task, path, batch, rows)
            rows += len(batch)
    return found


def _distinct(task: Task, path: Path, batch: pa.RecordBatch, first_row: int) -> set[str]:
    column = batch.column(batch.schema.names.index(task.label_column))  # reading `label` also gives a column `label.more`
    values = plain(pa.chunked_array([column])).combine_chunks()
    rows = pa.array(range(first_row, first_row + len(values)), pa.int64())
    if is_list(values):
        values, rows = pc.list_flatten(values), rows.take(pc.list_parent_indices(values))
    return set(pc.unique(as_texts(f"Task {task.key}: {path}", task.label_column, values, rows)).to_pylist()) - {None}
