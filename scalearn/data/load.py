"""Load checked and split rows from a job's data settings."""

from pathlib import Path

from scalearn.config import DataConfig
from scalearn.data.check import check_lists, check_texts, label_names, published_names, train_warnings, with_labels
from scalearn.data.read import read_splits
from scalearn.data.split import TaskSplits, split
from scalearn.errors import UserError
from scalearn.tasks import task_of
from scalearn.tasks.origin import data_origin


def load_task(data: DataConfig, *, root: Path | None) -> TaskSplits:
    """Return the raw rows that a job reads.

    Args:
        data: The task, and the part of it to read.
        root: Directory of local data. None: the hub (or a package, or the task's own directory).

    Returns:
        Rows in the published column layout, with the label in column `label`.

    Raises:
        UserError: The data is absent, broken, or not what the job was planned with. The sentence names task, file and row.
    """
    task = task_of(data)
    if data.origin.startswith("files:sha256-"):
        found = data_origin(task, root)
        if found != data.origin and not found.startswith("files:"):
            raise UserError(f"Task {task.key} was planned with local files, but no directory is given: give the root that holds them.")
        if found != data.origin:
            raise UserError(f"Task {task.key}: its files changed since planning ({data.origin}, now {found}); plan and run again.")
    published = read_splits(task, root)
    rows = {name: check_texts(task, each) for name, each in published.items()}
    train = rows[task.splits.train]
    names = label_names(task, train, published[task.splits.train].place)
    # In a multi-label task, a published name need not be a class, so numbers would refer to other names.
    ordered = task.label_names is not None or (task.kind != "multi_label" and published_names(task, train) is not None)
    for name, each in published.items():
        if task.kind == "per_candidate":
            check_lists(task, rows[name], each.place, task.other_columns[:2])
        rows[name] = with_labels(task, rows[name], each.place, names, ordered=ordered)
    warnings = [sentence for each in published.values() for sentence in each.warnings]
    return split(task, rows, data, names, (*warnings, *train_warnings(task, rows[task.splits.train])))
