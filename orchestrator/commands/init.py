"""`scalearn init`: a first sweep for a directory of tables."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.definition.first_sweep import FoundTask, find_tasks, gather_tables, sweep_text
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

if TYPE_CHECKING:
    from orchestrator.commands.arguments import Commands

_SHOWN = 6
"""How many classes are shown of a task."""

EXAMPLE = "scalearn init my_data --label verdict --to first.yaml"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "write a first sweep for a directory of CSV or TSV files"
    parser = commands.add_parser(
        "init", help=summary, description=summary[:1].upper() + summary[1:] + ". On a terminal it asks what no option says."
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIRECTORY",
        help="one directory per task, with train.csv and perhaps dev.csv and test.csv, or one file per task",
    )
    parser.add_argument("--columns", metavar="NAME[,NAME]", help="the one or two text columns of every task (default: the longest texts)")
    parser.add_argument("--label", metavar="NAME", help="the label column of every task (default: by its name, or the fewest values)")
    parser.add_argument("--backbone", default="minilm", help="the encoder (default: minilm)")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="the sweep file, which must not exist yet (default: the directory's name, .yaml)"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the sweep file, and say what was found.

    Raises:
        UserError: No text or label column was found or named, a table cannot be read, or the file exists.
    """
    directory: Path = arguments.directory
    to = arguments.to or Path(f"{directory.resolve().name}.yaml")
    if to.exists():
        raise UserError(f"{to} exists: name another file with --to.")
    for link in gather_tables(directory):
        print(f"linked   {link}")
    tasks = {task.name: _define(task, arguments) for task in find_tasks(directory)}
    text = sweep_text(to.stem, arguments.backbone, directory, tasks)
    jobs = len(Sweep.from_text(text, str(to)).expand())
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{to} cannot be written ({error.strerror}): name another file with --to.") from None
    counted = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    print(f"Wrote {to}: {counted}, {jobs} jobs. Look at it, then: scalearn plan {to}, scalearn run {to}")
    return 0


def _define(task: FoundTask, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a task's definition, by the options, by answers, or as found, and show it."""
    rows = len(next(iter(task.table.values())))
    print(f"task     {task.name}: {rows} rows; columns {', '.join(task.table)}")
    label = arguments.label or _answer("label column", task.label)
    if label is None:
        raise UserError(f"No column of task {task.name} looks like a label: name it with --label.")
    columns = arguments.columns or _answer("text column, or two with a comma", task.text(label))
    if columns is None:
        raise UserError(f"Task {task.name} has no column besides its label: a task needs a text.")
    found = task.definition([name.strip() for name in columns.split(",")], label)
    classes = Counter(task.table[label])
    named = ", ".join(f"{value} ({count})" for value, count in classes.most_common(_SHOWN))
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    what = "numbers, so regression" if "kind" in found else f"classes {named}{more}"
    drawn = [split for split, file in task.splits.items() if file is None]
    print(
        f"         text {', '.join(found['columns'])}; label {label}: {what}"
        + (f"; {' and '.join(drawn)} drawn from train" if drawn else "")
    )
    return found


def _answer(question: str, found: str | None) -> str | None:
    """Return what is typed at a terminal, or else what was found."""
    if not sys.stdin.isatty():
        return found
    print(f"         {question}" + (f" [{found}]" if found else "") + ": ", end="", flush=True)
    return sys.stdin.readline().strip() or found
