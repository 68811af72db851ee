"""Check that local files hold rows, by their first bytes or footers. This is done before a run, so that no job starts in vain.

Planning does not check this, since planning imports no pyarrow.
"""

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from scalearn.errors import UserError
from scalearn.tasks.origin import broken, split_files, task_directory
from scalearn.tasks.task import HubSource, PackageSource, Task


def check_present(task: Task, root: Path | None) -> None:
    """Refuse a task with a local file that is empty or not of its format. Single rows are checked when they are read.

    Args:
        task: The task. One that reads the hub or a package passes.
        root: Directory of local data. None: the hub, or the task's own directory.

    Raises:
        UserError: A split holds no rows, or its file is broken.
    """
    if isinstance(task.source, PackageSource) or (isinstance(task.source, HubSource) and root is None):
        return
    directory = task_directory(task, root)
    for split in task.splits.published:
        files = [path for path in split_files(task, directory, split) if path.parent == directory or path.suffix == ".arrow"]
        try:
            empty = not any(_has_rows(path) for path in files)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise broken(task, files[0], error) from error
        if empty:
            place = files[0] if files and files[0].parent == directory else directory / split
            raise UserError(f"Task {task.key}: {place} holds no rows; fetch or write it again.")


def _has_rows(path: Path) -> bool:
    match path.suffix:
        case ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return bool(file.metadata.num_rows)
        case ".arrow":
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
                return any(batch.num_rows for batch in batches)
        case ending:
            needed = 2 if ending in (".csv", ".tsv") else 1  # a table's first line has the names of its columns
            with path.open(encoding="latin-1") as lines:  # latin-1 accepts any byte, and any line end counts
                return len(list(islice(filter(str.strip, lines), needed))) == needed
