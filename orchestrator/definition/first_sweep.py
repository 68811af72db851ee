"""A first sweep for somebody's tables: which columns hold the texts and the labels, and a sweep file that says so."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.definition.basis import as_yaml
from scalearn.errors import UserError
from scalearn.tasks.task import Task, column_format
from scalearn.tasks.text_files import read_text_file
from scalearn.tasks.user_task import own_task

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Names under which files are taken for a split, by preference."""
_ENDINGS = (".csv", ".tsv")
_LABELS = ("label", "labels", "class", "category", "target", "y")
"""Names of columns that are taken for labels."""
_MOST_CLASSES = 20
_FIRST = {"train_rows": 1000, "evaluation_rows": 400, "max_length": 64}
"""What keeps a first sweep to minutes."""


@dataclass(frozen=True)
class FoundTask:
    """A task's files, and what they hold."""

    name: str
    splits: Mapping[str, str | None]
    """The file of each split, without its ending. None: drawn from train."""
    table: Mapping[str, Sequence[str]]
    """The columns of train."""

    @property
    def label(self) -> str | None:
        """The column that is taken for the label: by its name, else the one with the fewest different values. None: none repeats itself."""
        named = [name for name in self.table if name.lower() in _LABELS]
        values = {name: len(set(column)) for name, column in self.table.items()}
        few = [name for name in sorted(values, key=values.__getitem__) if 1 < values[name] <= len(self.table[name]) / 2]
        return next(iter((*named, *few)), None)

    def text(self, label: str) -> str | None:
        """Return the column with the longest texts on average. None: there is none besides the label."""
        others = {name: sum(map(len, column)) for name, column in self.table.items() if name not in (label, "label")}
        return max(others, key=others.__getitem__, default=None)

    def definition(self, columns: Sequence[str], label: str) -> dict[str, Any]:
        """Return the lines of a sweep file that describe the task.

        Raises:
            UserError: There is no such column.
        """
        for name in (*columns, label):
            if name not in self.table:
                raise UserError(f"Task {self.name} has no column '{name}': its columns are {', '.join(self.table)}.")
        found: dict[str, Any] = {"columns": list(columns), "label": label}
        if _are_numbers(self.table[label]):
            found["kind"] = "regression"
        renamed = {split: file for split, file in self.splits.items() if file != split}
        return found | ({"splits": renamed} if renamed else {})


def find_tasks(directory: Path) -> list[FoundTask]:
    """Return the tasks of a directory: each is a directory in it with a table `train`, or with one table alone.

    Raises:
        UserError: There is none, or a table cannot be read.
    """
    try:
        inner = sorted(path for path in directory.iterdir() if path.is_dir() and _tables(path))
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error.strerror}): name a directory of tables.") from None
    if not inner:
        raise UserError(f"{directory} holds no tables: put one directory per task into it, such as {directory / 'reviews' / 'train.csv'}.")
    return [_found(path) for path in inner]


def gather_tables(directory: Path) -> list[str]:
    """Give each table that lies in a directory itself a directory of its own, with a link to it, and return what was done.

    A sweep reads a task from a directory. A link leaves the table where it is.
    """
    done = []
    for table in _tables(directory) if directory.is_dir() else ():
        link = directory / table.stem / f"train{table.suffix}"
        if not link.parent.exists():
            link.parent.mkdir()
            link.symlink_to(Path("..", table.name))
            done.append(f"{link} -> {table.name}")
    return done


def sweep_text(name: str, backbone: str, directory: Path, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sweep file over the tasks of a directory.

    Args:
        name: The sweep's name.
        backbone: The encoder.
        directory: Where the tasks' directories lie. Its name becomes that of the benchmark.
        tasks: Their definitions, by name.
    """
    place = directory.resolve()
    methods: dict[str, Any] = {"adapter": {}, "scalearn": {}, "scalearn_uniform_pp": {}}
    head: dict[str, Any] = {"name": name, "benchmark": place.name, "backbone": backbone}
    root = os.path.relpath(place.parent) if place.is_relative_to(Path.cwd()) or place == Path.cwd() else str(place.parent)
    return (
        "# yaml-language-server: $schema=sweep.schema.json\n"
        "# (`scalearn schema > sweep.schema.json` makes that file, by which editors complete and check this one.)\n"
        "# How much does each task gain from what the others have learned?\n"
        + as_yaml(head | {"tasks": dict(tasks)})
        + "# Few rows and epochs and one seed, to end within minutes. For results that count leave out train_rows,\n"
        + "# evaluation_rows and epochs, and add a line: seeds: [0, 1, 2]\n"
        + as_yaml({"data": {"root": root, **_FIRST}, "training": {"epochs": 5}, "methods": methods})
    )


def _tables(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix in _ENDINGS and path.is_file())


def _found(directory: Path) -> FoundTask:
    tables = {path.stem: path for path in _tables(directory)}
    splits = {split: next((name for name in names if name in tables), None) for split, names in SPLITS.items()}
    if splits["train"] is None and len(tables) == 1:
        splits["train"] = next(iter(tables))
    if splits["train"] is None:
        raise UserError(f"{directory} holds no table 'train', only {', '.join(sorted(tables))}: name the one to learn from train.csv.")
    return FoundTask(directory.name, splits, _table(directory.name, tables[splits["train"]]))


def _table(name: str, path: Path) -> Mapping[str, Sequence[str]]:
    """Return all columns of a table, read as a task's are."""
    names = read_text_file(_reading(name, ["text"]), path).names
    columns = dict(read_text_file(_reading(name, names), path).columns)
    if not columns or not next(iter(columns.values())):
        raise UserError(f"Task {name}: {path} holds no rows; its first line names the columns, and each further line is a row.")
    return {column: columns[column] for column in names}


def _reading(name: str, columns: Sequence[str]) -> Task:
    """Return a task that reads some columns."""
    texts = "".join(column_format(column) for column in columns if column != "label") or "{text}"
    return own_task(f"found/{name}", {"columns": texts})


def _are_numbers(values: Sequence[str]) -> bool:
    """Tell whether labels are numbers on a scale, and not names of a few classes."""
    if len(set(values)) <= _MOST_CLASSES:
        return False
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False
