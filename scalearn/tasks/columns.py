"""Which columns a task reads, and the error for a column that a file lacks."""

from collections.abc import Collection, Sequence

from scalearn.errors import UserError
from scalearn.tasks.spelling import listed, same_look
from scalearn.tasks.task import Task

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def needed_columns(task: Task) -> tuple[str, ...]:
    """Return the columns that a task reads, each once. Tasks of candidates have no label column."""
    label = () if task.kind == "per_candidate" else (task.label_column,)
    return tuple(dict.fromkeys((*task.columns, *task.choices, *task.other_columns, *label)))


def refuse_absent(task: Task, place: str, names: Collection[str]) -> None:
    """Refuse a file that lacks a column that the task reads.

    Args:
        task: The task.
        place: What the sentence calls the file.
        names: The columns in the file. If empty, nothing is checked, since another check refuses empty files.

    Raises:
        UserError: A column is absent. The sentence names a column that looks the same, if there is one.
    """
    absent = next((column for column in needed_columns(task) if column not in names), None)
    if absent is None or not names:
        return
    near = same_look(absent, names)
    hint = "" if near is None else f"; {near!a} and {absent!a} differ in capitals, white space or signs that look the same"
    raise UserError(f"Task {task.key}: {place} lacks the column {absent!r}; its columns are {listed(names)}{hint}.")


def refuse_other_separator(task: Task, where: str, header: Sequence[str], separator: str) -> None:
    """Refuse a table whose header has the task's columns only if it is split at another separator.

    Raises:
        UserError: It has.
    """
    wanted = set(needed_columns(task))
    if wanted.intersection(header):
        return
    line = separator.join(header)
    for other in SEPARATORS:
        if other != separator and wanted.intersection(name.strip(' "') for name in line.split(other)):
            advice = {"\t": "name it .tsv", ",": "name it .csv"}.get(other, f"write it with {SEPARATORS[separator]}")
            raise UserError(f"{where} separates its fields by {SEPARATORS[other]}, not by {SEPARATORS[separator]}; {advice}.")
