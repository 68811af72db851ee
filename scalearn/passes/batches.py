"""Which rows a job trains on at each step, and how the batches of a pack are joined."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scalearn.data import length_grouped_order


@dataclass(frozen=True)
class BatchPlan:
    """One step of one job."""

    task: int
    """Index into the job's tasks."""
    rows: tuple[int, ...]
    """Row numbers within the task's training split."""


def epoch_batches(
    sizes: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    temperature: float = 1.0,
    lengths: Sequence[Sequence[int]] | None = None,
    counts: Sequence[int] | None = None,
) -> list[BatchPlan]:
    """Draw the steps of one epoch. They depend only on the arguments, so a resumed job continues where it was.

    With one task, every row comes once, in random order. With several tasks, each batch holds rows of one task. The task is drawn with
    probability proportional to count ** (1 / temperature), and its rows with replacement (docs/protocol.md, Joint training).

    Args:
        sizes: Training rows of each task.
        batch_size: Rows per step.
        seed: The job's seed.
        epoch: Counted from 0.
        temperature: Flattens the draw of tasks. 1: proportional to the counts.
        lengths: Tokens of every training row, by task. Batches then hold rows of similar length. Default: lengths do not matter.
        counts: The number of rows of each task by which tasks are drawn. Default: its real number.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)

    def batches(task: int, rows: Sequence[int]) -> list[BatchPlan]:
        if lengths is not None:
            grouping = int(torch.randint(2**31, (), generator=generator))
            rows = [rows[index] for index in length_grouped_order([lengths[task][row] for row in rows], batch_size, grouping)]
        return [BatchPlan(task, tuple(rows[start : start + batch_size])) for start in range(0, len(rows), batch_size)]

    if len(sizes) == 1:
        return batches(0, torch.randperm(sizes[0], generator=generator).tolist() if lengths is None else range(sizes[0]))
    weights = torch.tensor([float(count) for count in counts or sizes]) ** (1.0 / temperature)
    drawn = torch.multinomial(weights, steps_per_epoch(sizes, batch_size), replacement=True, generator=generator).tolist()
    chosen = [torch.randint(size, (drawn.count(task) * batch_size,), generator=generator).tolist() for task, size in enumerate(sizes)]
    plans = [iter(batches(task, rows)) for task, rows in enumerate(chosen)]
    return [next(plans[task]) for task in drawn]


def steps_per_epoch(sizes: Sequence[int], batch_size: int) -> int:
    """Return the number of batches that `epoch_batches` returns."""
    return math.ceil(sum(sizes) / batch_size)


def merge_batches(batches: Sequence[Mapping[str, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """Stack the inputs of several jobs along the rows, padded to the longest.

    Args:
        batches: Each with `input_ids`, `attention_mask` and, for some backbones, `token_type_ids`, `[rows, length]`.
        pad_token_id: Fills `input_ids`; the other inputs are filled with 0.

    Returns:
        The same inputs, `[all rows, longest length]`. Other entries, such as labels, are left out.
    """
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in batches[0]]
    if len(batches) == 1:
        return {name: batches[0][name] for name in names}
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    merged = {}
    for name in names:
        fill = pad_token_id if name == "input_ids" else 0
        merged[name] = torch.cat([functional.pad(batch[name], (0, longest - batch[name].shape[1]), value=fill) for batch in batches])
    return merged
