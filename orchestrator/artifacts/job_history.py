"""What a job has reported so far: the records of its `history.jsonl`, each also as one line of text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scalearn.files.json_files import json_lines, names_no_file


def history_records(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the whole lines of a `history.jsonl`. It may be growing, absent, or replaced by something that is no file."""
    try:
        if path.is_fifo():
            return  # a pipe: reading it might never end
        data = path.read_bytes()
    except OSError as error:
        if not (names_no_file(error) or isinstance(error, PermissionError)):
            raise
        return
    yield from (record for record in json_lines(data) if isinstance(record.get("step"), int))


def summary(record: Mapping[str, Any]) -> str:
    """Return a history record in one line: `step 40/120, epoch 1: train_loss 0.61, validation loss 0.55, accuracy 0.71`."""
    total = f"/{record['total_steps']}" if record.get("total_steps") else ""
    epoch = f", epoch {record['epoch']:.3g}" if isinstance(record.get("epoch"), int | float) else ""
    loss = f"train_loss {record['train_loss']:.4g}, " if isinstance(record.get("train_loss"), int | float) else ""
    return f"step {record.get('step')}{total}{epoch}: {loss}{scores(record) or 'no scores'}"


def scores(record: Mapping[str, Any]) -> str | None:
    """Return the validation scores of a history record as text: `validation loss 0.55, accuracy 0.71`. None: there are none."""
    values = flat({"validation": record.get("validation") or record.get("tasks") or {}}, " ")
    shown = [(name.removeprefix("validation "), value) for name, value in values if isinstance(value, int | float)]
    return f"validation {', '.join(f'{name} {value:.4g}' for name, value in shown)}" if shown else None


def flat(value: Any, separator: str, name: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested JSON values. A list of one element counts as that element."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, separator, f"{name}{separator}{key}" if name else str(key))
    elif isinstance(value, list) and len(value) == 1:
        yield from flat(value[0], separator, name)
    else:
        yield name, value
