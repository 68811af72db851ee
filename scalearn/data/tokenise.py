"""Turn rows into token ids, once per rows, tokenizer, template and length, streamed in batches and kept in the cache."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache as remember
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value

from scalearn.config import DataConfig
from scalearn.data.cache import Entry, open_or_build
from scalearn.data.check import LABEL
from scalearn.data.load import load_task
from scalearn.data.read import in_memory
from scalearn.data.split import TaskSplits
from scalearn.errors import UserError
from scalearn.tasks import Task, task_of
from scalearn.tasks.task import Row, Template

SCHEMA_VERSION = 3
"""Raise this when the token ids or labels of equal settings change. Older cache entries are then no longer used."""

BATCH_ROWS = 256
"""Published rows that are expanded and tokenised at once. This bounds the memory."""

Tokenizer = Callable[..., Mapping[str, list[list[int]]]]
Text = tuple[str, str | None]


@dataclass(frozen=True)
class TokenisedTask:
    """Token ids of a task's splits."""

    task: Task
    splits: Mapping[str, Dataset]
    """By name: `train`, `validation`, `test` and extras such as `test_mismatched`. Columns: `input_ids`, `attention_mask`, `token_type_ids`
    if the tokenizer has them (for multiple choice lists of these), `label` (int, float, or floats per class), and `group`, `candidate`,
    `answers` for tasks that are scored in groups."""
    num_labels: int
    """Number of outputs of the head."""
    label_names: tuple[str, ...] | None
    warnings: tuple[str, ...] = ()
    """What is ambiguous or suspicious in the rows, in one sentence each."""

    @property
    def joint_size(self) -> int:
        """The number of training rows by which joint training draws this task."""
        train, column = self.splits["train"], self.task.counted_by
        return len(train) if column is None else len(train.unique(column))


def tokenised(data: DataConfig, tokenizer: Tokenizer, tokenizer_identity: str, *, root: Path | None, cache: Path | None) -> TokenisedTask:
    """Return the token ids of every split that a job reads.

    Args:
        data: The task, and the part of it to read.
        tokenizer: A Hugging Face tokenizer.
        tokenizer_identity: What sets its token ids apart from another tokenizer's, for example the origin of the backbone.
        root: Directory of local data. None: the hub (or a package, or the task's own directory).
        cache: Directory of memory-mapped Arrow files that all processes of a host share. None: tokenise in memory.

    Raises:
        UserError: The data is absent, broken, or not what the job was planned with.
    """
    task = task_of(data)
    names = ("train", "validation", "test", *(name for name, _ in task.splits.extra))

    @remember
    def raw() -> TaskSplits:
        return load_task(data, root=root)

    def build(name: str) -> tuple[Features, Iterator[pa.Table], tuple[str, ...] | None, tuple[str, ...]]:
        splits = raw()
        features = _features(task, tokenizer, splits.label_names)
        tables = _tokenise(task, splits.splits[name], tokenizer, data, features, splits.label_names)
        return features, tables, splits.label_names, splits.warnings

    if cache is None:
        built = {name: build(name) for name in names}
        entries = {name: Entry(_collect(features, tables), labels, said) for name, (features, tables, labels, said) in built.items()}
    else:
        wanted = {name: _key(data, name, tokenizer_identity) for name in names}
        entries = open_or_build(cache / "tokens" / task.benchmark / task.name, wanted, build)
    labels = entries["train"].label_names
    classes = 1 if task.num_labels == 1 or labels is None else len(labels)
    for sentence in entries["train"].warnings:
        warnings.warn(sentence, stacklevel=2)
    return TokenisedTask(task, {name: entry.rows for name, entry in entries.items()}, classes, labels, entries["train"].warnings)


def _key(data: DataConfig, split: str, tokenizer_identity: str) -> dict[str, Any]:
    """Return what one split's token ids depend on. A share of train and few-shot caps affect validation, but never test."""
    settings = asdict(data)
    training = {name: settings.pop(name) for name in ("train_rows", "train_share", "few_shot")}
    rows: dict[str, Any] = {"cap": settings.pop("evaluation_rows")}
    later = {name: value for name in ("rows_kept", "labels_shuffled") if (value := settings.pop(name)) is not None}
    if split == "train":
        rows = training | later
    elif split != "test":
        rows["few_shot"] = training["few_shot"] is not None
    if split == "validation":
        rows["train_share"] = training["train_share"]
    settings["rows"] = rows
    return {"schema": SCHEMA_VERSION, "split": split, "tokenizer": tokenizer_identity, **settings}


def _features(task: Task, tokenizer: Any, label_names: tuple[str, ...] | None) -> Features:
    """Return the columns of a tokenised split. The label names are those of the rows."""
    types = {"input_ids": "int32", "attention_mask": "int8", "token_type_ids": "int8"}
    columns: dict[str, Any] = {}
    for name in types:
        if name in tokenizer.model_input_names:
            sequence = List(Value(types[name]))
            columns[name] = List(sequence) if task.kind == "multiple_choice" else sequence
    columns[LABEL] = {"regression": Value("float32"), "multi_label": List(Value("float32"))}.get(task.kind, Value("int64"))
    if task.kind == "per_candidate":
        columns |= {"group": Value("int64"), "candidate": Value("string"), "answers": List(Value("string"))}
    if task.kind == "grouped_answers":
        columns["group"] = Value("string")
    return Features(columns)


def _tokenise(
    task: Task, rows: Dataset, tokenizer: Tokenizer, data: DataConfig, features: Features, label_names: tuple[str, ...] | None
) -> Iterator[pa.Table]:
    """Iterate over tables of tokenised rows, one per batch of published rows."""
    template, first_row = task.template(data.template), 0
    for batch in rows.iter(batch_size=BATCH_ROWS):
        columns = list(batch)
        examples = [dict(zip(columns, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        try:
            records, texts = _expand(task, template, examples, first_row, label_names)
        except (LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"Task {task.key}: a row does not fit the template {data.template!r} ({error!r}); check its columns."
            ) from error
        first_row += len(examples)
        encoded = _encode(tokenizer, texts, data.max_length, only_first=task.truncation == "only_first")
        table: dict[str, list[Any]] = {name: encoded[name] for name in features if name in encoded}
        if task.kind == "multiple_choice":
            width = len(task.choices)
            table = {name: [ids[start : start + width] for start in range(0, len(ids), width)] for name, ids in table.items()}
        table |= {name: [record[name] for record in records] for name in features if name not in table}
        yield pa.Table.from_pydict(table, schema=features.arrow_schema)


def _encode(tokenizer: Tokenizer, texts: Sequence[Text], max_length: int, *, only_first: bool) -> Mapping[str, list[list[int]]]:
    """Return the token ids of texts. Both segments are cut if only the first may be cut but the second alone is too long."""
    firsts = [first for first, _ in texts]
    seconds = [second for _, second in texts] if texts[0][1] is not None else None
    truncation = "only_first" if only_first and seconds is not None else "longest_first"
    try:
        return tokenizer(firsts, seconds, truncation=truncation, max_length=max_length, padding=False, verbose=False)
    except Exception as error:  # the tokenizers library has no more specific error
        if truncation == "longest_first" or "too short" not in str(error):
            raise
        if len(texts) == 1:
            return _encode(tokenizer, texts, max_length, only_first=False)
        parts = [_encode(tokenizer, [text], max_length, only_first=True) for text in texts]
        return {name: [part[name][0] for part in parts] for name in parts[0]}


def _expand(
    task: Task, template: Template, examples: Sequence[Row], first_row: int, label_names: tuple[str, ...] | None
) -> tuple[list[dict[str, Any]], list[Text]]:
    """Return what each row gives: its label and groups, and its texts to tokenise (several for choices and candidates)."""
    records: list[dict[str, Any]] = []
    texts: list[Text] = []
    for number, example in enumerate(examples, start=first_row):
        match task.kind:
            case "per_candidate":
                for candidate in example["entities"]:
                    gold = int(candidate in example["answers"])
                    records.append({LABEL: gold, "group": number, "candidate": candidate, "answers": example["answers"]})
                    texts.append(template.render({**example, "candidate": candidate}))
                continue
            case "multiple_choice":
                texts += [template.render({**example, "choice": example[choice]}) for choice in task.choices]
            case _:
                texts.append(template.render(example))
        label = example[LABEL]
        if task.kind == "multi_label":
            assert label_names is not None
            label = [float(index in label) for index in range(len(label_names))]
        record = {LABEL: label}
        if task.kind == "grouped_answers":
            record["group"] = "-".join(str(example["idx"][part]) for part in ("paragraph", "question"))
        records.append(record)
    return records, texts


def _collect(features: Features, tables: Iterator[pa.Table]) -> Dataset:
    return in_memory(pa.concat_tables([features.arrow_schema.empty_table(), *tables]))
