"""Which rows a job trains on at each step, and how the batches of a pack become one."""

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
    sizes: Sequence[int], batch_size: int, seed: int, epoch: int, temperature: float = 1.0, lengths: Sequence[Sequence[int]] | None = None
) -> list[BatchPlan]:
    """The steps of one epoch: a function of its arguments alone, so that a resumed job continues where it was.

    With one task every row comes once, in random order. With several, each batch holds one task, drawn with probability
    proportional to size ** (1 / temperature) (PROTOCOL, joint methods), and each task's rows come in random order, anew
    when they are used up.

    Args:
        sizes: Training rows of each task.
        batch_size: Rows per step.
        seed: The job's seed.
        epoch: Counted from 0.
        temperature: Flattens the draw of tasks; 1 is proportional to size.
        lengths: Tokens of every training row, by task: batches then hold rows of similar length. Default: lengths do not matter.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)

    def shuffled(task: int) -> list[int]:
        if lengths is None:
            order: list[int] = torch.randperm(sizes[task], generator=generator).tolist()
            return order
        return length_grouped_order(lengths[task], batch_size, int(torch.randint(2**31, (), generator=generator)))

    orders = [shuffled(task) for task in range(len(sizes))]
    if len(sizes) == 1:
        return [BatchPlan(0, tuple(orders[0][start : start + batch_size])) for start in range(0, sizes[0], batch_size)]
    steps = steps_per_epoch(sizes, batch_size)
    weights = torch.tensor([float(size) for size in sizes]) ** (1.0 / temperature)
    drawn = torch.multinomial(weights, steps, replacement=True, generator=generator).tolist()
    used = [0] * len(sizes)
    plans = []
    for task in drawn:
        if used[task] >= sizes[task]:
            orders[task] = shuffled(task)
            used[task] = 0
        plans.append(BatchPlan(task, tuple(orders[task][used[task] : used[task] + batch_size])))
        used[task] += batch_size
    return plans


def steps_per_epoch(sizes: Sequence[int], batch_size: int) -> int:
    """Number of batches that `epoch_batches` returns."""
    return math.ceil(sum(sizes) / batch_size)


def merge_batches(batches: Sequence[Mapping[str, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """Lays the inputs of several jobs one under the other, padded to the longest.

    Args:
        batches: Each with `input_ids`, `attention_mask` and perhaps `token_type_ids`, `[rows, length]`.
        pad_token_id: Fills `input_ids`; the other inputs are filled with 0.

    Returns:
        The same inputs, `[all rows, longest length]`; other entries, such as labels, are left out.
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
