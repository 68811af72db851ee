"""Labels are matched by their text: which classes there are, which class a label means, and which labels look like mistakes."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from scalearn.tasks.spelling import look, shown
from scalearn.tasks.task import Task

_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+")
_WHOLE = re.compile(r"-?\d{1,18}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def compared(label: str) -> str:
    """Return a label in the form in which labels are compared.

    pandas writes 1.0 for 1 if a row of the column was missing, and -0.0 for some computed zeros. Each program writes true in its own way.
    Unicode has two ways to write é, which editors, file systems and readers take for the same.

    >>> [compared(label) for label in ("1.0", "-0.0", "01", "True", "Pos", "1.5", "cafe\u0301")]
    ['1', '0', '01', 'true', 'Pos', '1.5', 'café']
    """
    label = label if label.isascii() else unicodedata.normalize("NFC", label)
    if whole := _WHOLE_FLOAT.fullmatch(label):
        return "0" if whole[1] == "-0" else whole[1]
    return label.lower() if label.lower() in ("true", "false") else label


def found_names(labels: Collection[str]) -> tuple[str, ...]:
    """Return the class names of a task that declares none: numbers in their order, other labels by their text.

    Args:
        labels: The labels that occur in train.
    """
    names: dict[str, str] = {}
    for label in sorted(labels):
        same = compared(label)
        names.setdefault(same, label if label.lower() == same else same)
    numeric = all(_NUMBER.fullmatch(name) for name in names.values())
    return tuple(sorted(names.values(), key=lambda name: (float(name) if numeric else 0.0, name)))


def class_numbers(labels: Collection[str], names: Sequence[str], *, ordered: bool) -> Mapping[str, int | None]:
    """Return the number of the class that each label means. None: the label means no class.

    Args:
        labels: The labels of a split.
        names: Names of the classes in the order of their numbers.
        ordered: Whether the names have this order by declaration or by features of the file. Then labels that are all whole numbers
            count the classes from 0, unless a name is itself a number, or true is named before false.
    """
    told = any(_NUMBER.fullmatch(name) for name in names) or [compared(name) for name in names] == ["true", "false"]
    if ordered and not told:
        numbers = {label: int(compared(label)) for label in labels if _WHOLE.fullmatch(compared(label))}
        if len(numbers) == len(labels):
            return {label: number if 0 <= number < len(names) else None for label, number in numbers.items()}
    exact = {name: number for number, name in enumerate(names)}
    alike: dict[str, int] = {}
    for number, name in enumerate(names):
        alike.setdefault(compared(name), number)
    return {label: exact.get(label, alike.get(compared(label))) for label in labels}


def label_warnings(task: Task, labels: Collection[str]) -> tuple[str, ...]:
    """Return warnings about the labels of a train split, in one sentence each.

    Args:
        task: The task.
        labels: The labels that occur: class names, or for regression numbers.
    """
    sentences = []
    if len(labels) == 1 and task.kind != "multi_label":
        (label,) = labels
        sentences.append(f"Task {task.key}: every label of train is {shown(label)}, so there is nothing to learn; check its label column.")
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(look(label), []).append(label)
    if task.label_names is None:
        sentences += [
            f"Task {task.key}: the labels {', '.join(map(shown, same[:10]))} of train are classes of their own and differ in white "
            "space, capitals or spelling alone; write them alike if they are one."
            for same in alike.values()
            if len(same) > 1
        ]
    return tuple(sentences)
