"""Train, validation and test as in the paper, with shares, few-shot samples and caps of them (docs/protocol.md, Splits)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, concatenate_datasets
from datasets.utils.stratify import stratified_shuffle_split_generate_indices

from scalearn.config import DataConfig
from scalearn.data.check import LABEL
from scalearn.data.read import in_memory
from scalearn.errors import UserError
from scalearn.tasks.spelling import shown
from scalearn.tasks.task import Task

SEED = 42
VALIDATION_SHARE = 0.1
SHARE_STEP = 0.05
FEW_SHOT_VALIDATION_ROWS = 5000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskSplits:
    """Raw rows of a task, ready to be tokenised."""

    task: Task
    train: Dataset
    validation: Dataset
    test: Dataset
    label_names: tuple[str, ...] | None
    """Names in the order of their numbers. None: the task is a regression."""
    extra: Mapping[str, Dataset] = field(default_factory=dict)
    """Further evaluation splits by their name in results, for example `test_mismatched`."""
    warnings: tuple[str, ...] = ()
    """What is ambiguous or suspicious in the published rows, in one sentence each."""

    @property
    def splits(self) -> dict[str, Dataset]:
        """All splits by name, train first."""
        return {"train": self.train, "validation": self.validation, "test": self.test, **self.extra}


def split(
    task: Task, published: Mapping[str, Dataset], data: DataConfig, names: tuple[str, ...] | None, warnings: tuple[str, ...] = ()
) -> TaskSplits:
    """Return the splits that a job reads.

    Args:
        task: The task.
        published: Its checked rows by published split.
        data: Which part of the rows the job reads.
        names: The task's label names.
        warnings: Warnings about the published rows.

    Raises:
        UserError: There are too few rows for the split or for the sample that `data` asks for.
    """
    for name in ("train_rows", "evaluation_rows"):
        if (cap := getattr(data, name)) is not None and cap < 1:
            raise UserError(f"Task {task.key}: {name} is {cap}; ask for at least one row.")
    rule, train = task.splits, published[task.splits.train]
    stratify = rule.stratify and isinstance(train.features.get(LABEL), ClassLabel)
    if rule.test is None:
        train, test = _carve(task, train, rule.test_share, stratify)
    else:
        test = published[rule.test]
    if data.train_share is not None:
        train = _share(task, train, data.train_share, stratify)
    if rule.validation is None:
        train, validation = _carve(task, train, VALIDATION_SHARE, stratify)
    else:
        validation = published[rule.validation]
    extra = {name: published[source] for name, source in rule.extra}
    if data.few_shot is not None:
        train = _few(task, train, data.few_shot)
        validation = _first(task, validation, FEW_SHOT_VALIDATION_ROWS)
        extra = {name: _first(task, rows, FEW_SHOT_VALIDATION_ROWS) for name, rows in extra.items()}
    train = draw(train, data.train_rows, stratify)
    if data.rows_kept is not None:
        train = draw(train, max(1, round(data.rows_kept * len(train))), stratify)
    if data.labels_shuffled is not None:
        train = _shuffled(task, train, data.labels_shuffled)
    return TaskSplits(
        task=task,
        train=train,
        validation=draw(validation, data.evaluation_rows, stratify),
        test=draw(test, data.evaluation_rows, stratify),
        label_names=names,
        extra={name: draw(rows, data.evaluation_rows, stratify) for name, rows in extra.items()},
        warnings=warnings,
    )


def draw(rows: Dataset, count: int | None, stratify: bool) -> Dataset:
    """Return at most `count` of the rows, drawn with seed 42, in proportion to the labels if that is possible.

    If `count`, or what it leaves, is smaller than the number of classes, or a class has one row, the draw is plainly random.
    """
    if count is None or count >= len(rows):
        return rows
    return rows.select(_drawn(_labels(rows) if stratify else None, len(rows), count), keep_in_memory=True)


def _drawn(labels: Numbers | None, total: int, count: int) -> Numbers:
    """Return the numbers of the rows that `draw` takes.

    Args:
        labels: Labels of all rows. None: do not stratify.
        total: Number of all rows.
        count: Rows to take, fewer than all.
    """
    if labels is not None:
        classes = np.unique(labels, return_counts=True)[1]
        if min(count, total - count) >= len(classes) and classes.min() >= 2:
            return _parted(labels, total, total - count)[0]
    order: Numbers = np.random.default_rng(SEED).permutation(total)
    return order[:count]


def _carve(task: Task, rows: Dataset, share: float, stratify: bool) -> tuple[Dataset, Dataset]:
    """Return the remaining rows, and the share that is drawn from the rows."""
    labels, count = _labels(rows) if stratify else None, ceil(share * len(rows))
    try:
        if labels is not None:
            _check_classes(rows, labels, count)
        train, test = _parted(labels, len(rows), count)
    except ValueError as error:
        raise UserError(
            f"Task {task.key}: cannot draw {share:.0%} of {len(rows)} rows of train as an evaluation split ({error}); "
            "use more rows, or give the split a file of its own."
        ) from None
    return rows.select(train, keep_in_memory=True), rows.select(test, keep_in_memory=True)


def _check_classes(rows: Dataset, labels: Numbers, count: int) -> None:
    """Say in plain words why rows cannot be drawn in proportion to the labels: each class needs a row in both parts.

    Args:
        rows: The rows.
        labels: Their labels.
        count: Rows to draw.

    Raises:
        ValueError: A class has one row, or there are more classes than rows in a part.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(rows) > 1 and counts.min() < 2:
        name = rows.features[LABEL].int2str(int(classes[counts.argmin()]))
        raise ValueError(f"the label {shown(name)} has one row, and each label needs one in both parts")
    if len(rows) > 1 and min(count, len(rows) - count) < len(classes):
        raise ValueError(f"each of its {len(classes)} labels needs a row in both parts")


def _parted(labels: Numbers | None, total: int, test_count: int) -> tuple[Numbers, Numbers]:
    """Return the row numbers of both parts of `train_test_split(test_size=test_count, shuffle=True, seed=42, stratify_by_column="label")`.

    That call reads the labels one row at a time, which takes a minute on MNLI and many minutes for its nested shares. The draw itself is
    the library's own.

    Args:
        labels: Labels of all rows. None: do not stratify.
        total: Number of all rows.
        test_count: Rows of the second part.

    Raises:
        ValueError: No rows remain for training, or a class has too few rows to be in both parts.
    """
    generator = np.random.default_rng(SEED)
    if total - test_count < 1:
        raise ValueError("no row is left to train on")
    if labels is not None:
        train, test = next(stratified_shuffle_split_generate_indices(labels, total - test_count, test_count, rng=generator))
        return train, test
    order = generator.permutation(total)
    return order[test_count:], order[:test_count]


def _shuffled(task: Task, rows: Dataset, share: float) -> Dataset:
    """Return the rows, of which a share, drawn with seed 42, have each other's labels. So each label stays as frequent as it is.

    A cyclic shift in random order gives no row its own label back, though maybe an equal one.
    """
    if task.kind == "per_candidate":
        raise UserError(f"Task {task.key} has labels for each candidate of a row, which cannot be shuffled between rows: leave it whole.")
    drawn = np.random.default_rng(SEED).permutation(len(rows))[: round(share * len(rows))]
    taken = np.arange(len(rows))
    taken[drawn] = np.roll(drawn, 1)
    table = rows.with_format("arrow")[:]
    labels = table.column(LABEL).take(taken)
    table = table.set_column(table.column_names.index(LABEL), table.schema.field(LABEL), labels)
    return in_memory(table.replace_schema_metadata(rows.features.arrow_schema.metadata))


def _labels(rows: Dataset) -> Numbers:
    labels: Numbers = rows.select_columns(LABEL).with_format("arrow")[:][LABEL].to_numpy()
    return labels


def _few(task: Task, train: Dataset, count: int) -> Dataset:
    """Return the few-shot rows: the first rows of train, which the draw of the validation rows has shuffled."""
    few = _first(task, train, max(0, count))
    if count < 1 or _inputs(task, few) < count:
        raise UserError(f"Task {task.key}: few_shot asks for {count} rows, but train has {_inputs(task, train)}; ask for fewer.")
    return few


def _first(task: Task, rows: Dataset, count: int) -> Dataset:
    """Return at most `count` rows from the beginning. In ReCoRD these are entities, and the last query keeps those that fit."""
    if task.kind != "per_candidate":
        return rows.select(range(min(count, len(rows))), keep_in_memory=True)
    ends = np.cumsum([len(entities) for entities in rows["entities"]])
    whole = int(np.searchsorted(ends, count, side="right"))
    first = rows.select(range(whole), keep_in_memory=True)
    left = count - (int(ends[whole - 1]) if whole else 0)
    if whole == len(rows) or left == 0:
        return first
    last = {**rows[whole], "entities": rows[whole]["entities"][:left]}
    return concatenate_datasets([first, Dataset.from_list([last], features=rows.features)])


def _inputs(task: Task, rows: Dataset) -> int:
    return sum(map(len, rows["entities"])) if task.kind == "per_candidate" else len(rows)


def _share(task: Task, train: Dataset, share: float, stratify: bool) -> Dataset:
    """Return a nested share of train: each step of 5 % is drawn from the next larger share."""
    steps = round(share / SHARE_STEP)
    if not 1 <= steps <= 20 or abs(steps * SHARE_STEP - share) > 1e-9:
        raise UserError(f"Task {task.key}: train_share is {share}; use a multiple of {SHARE_STEP} between {SHARE_STEP} and 1.")
    # Work on row numbers until the end, since selecting rows at each step would cost more than all draws together.
    total, chosen = len(train), np.arange(len(train))
    labels = _labels(train) if stratify else None
    for step in range(19, steps - 1, -1):
        count = max(1, round(total * step * SHARE_STEP))
        if count < len(chosen):
            chosen = chosen[_drawn(None if labels is None else labels[chosen], len(chosen), count)]
    return train if len(chosen) == total else train.select(chosen, keep_in_memory=True)
