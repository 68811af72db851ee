"""One pass of several jobs' rows through the shared backbone, and the logits of each job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from scalearn.backbone.encoder import Encoder
from scalearn.data import TokenisedTask, collate, token_count
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head
from scalearn.layers.random_streams import RowBlock
from scalearn.passes.batches import BatchPlan, merge_batches
from scalearn.passes.packed_heads import head_logits


class PackedJob(Protocol):
    """What a pass needs from a job, whether the job trains or is only evaluated."""

    @property
    def tasks(self) -> Sequence[TokenisedTask]:
        """The data of the job."""

    @property
    def branch(self) -> Branch:
        """The branch that the job adds to the backbone."""

    @property
    def heads(self) -> Sequence[Head]:
        """The heads, one per task."""


@dataclass(frozen=True)
class JobBatch:
    """Rows of one task of one job, collated."""

    run: PackedJob
    task: int
    inputs: Mapping[str, Tensor]
    """`input_ids`, `attention_mask`, perhaps `token_type_ids`, and `labels`, on CPU."""
    seed: int = 0
    """The batch's seed, for its dropout."""
    first: int = 0
    """The place of its first row in the whole batch that it is a part of."""
    batch_lengths: tuple[int, ...] | None = None
    """Tokens of every row of that whole batch. None: this is the whole batch."""

    @property
    def weight(self) -> int:
        """The number of examples, that is, the rows of `labels`."""
        return int(self.inputs["labels"].shape[0])

    @property
    def block(self) -> RowBlock:
        """The description of these rows in a pass through the backbone."""
        rows, length = self.inputs["input_ids"].shape
        return RowBlock(rows, length, self.seed, self.task, self.first, self.batch_lengths)


def collate_rows(run: PackedJob, task: int, split: str, rows: Sequence[int], pad_token_id: int) -> JobBatch:
    """Read and pad rows of one split of one of the job's tasks, in the given order."""
    inputs = collate(run.tasks[task].splits[split].__getitems__(list(rows)), pad_token_id)
    return JobBatch(run, task, inputs, batch_lengths=tuple(inputs["attention_mask"].sum(dim=1).tolist()))


def training_batch(run: PackedJob, plan: BatchPlan, pad_token_id: int, seed: int) -> JobBatch:
    """Read and pad the rows of a training step, shortest first, since neighbours of like length are attended to together."""
    rows = run.tasks[plan.task].splits["train"].__getitems__(list(plan.rows))
    return JobBatch(run, plan.task, collate(sorted(rows, key=lambda row: token_count(row["input_ids"])), pad_token_id), seed)


def packed_logits(encoder: Encoder, batches: Sequence[JobBatch], pad_token_id: int) -> list[Tensor]:
    """Run one packed batch.

    Args:
        encoder: The shared backbone.
        batches: One per job.
        pad_token_id: The tokenizer's padding token.

    Returns:
        Each job's logits, `[its rows, labels]`.
    """
    merged = merge_batches([batch.inputs for batch in batches], pad_token_id)
    inputs = {name: tensor.to(encoder.device, non_blocking=True) for name, tensor in merged.items()}
    blocks = [batch.block for batch in batches]
    states = encoder(inputs, [batch.run.branch for batch in batches], blocks)
    parts = states.split([block.rows for block in blocks])
    return head_logits([batch.run.heads[batch.task] for batch in batches], parts, blocks)


def losses(batches: Sequence[JobBatch], logits: Sequence[Tensor]) -> list[Tensor]:
    """Return each job's mean loss over its rows, as scalars."""
    return [
        batch.run.heads[batch.task].loss(scores, batch.inputs["labels"].to(scores.device))
        for batch, scores in zip(batches, logits, strict=True)
    ]


def split_for_memory(batches: Sequence[JobBatch], passes: int) -> list[list[tuple[JobBatch, float]]]:
    """Divide a step's batches into passes that each hold about the same number of rows.

    Whole jobs stay together while there is room. Dividing a job costs more, since each part draws the dropout of the job's whole batch.

    Args:
        batches: One per job.
        passes: How many passes. There may be more, since no pass is larger than an equal share, unless one example is.

    Returns:
        One list per pass: the part of each job, and the part's share of the job's examples, by which its loss is weighted.
    """
    room = -(-sum(batch.block.rows for batch in batches) // passes)
    shared: list[list[tuple[JobBatch, float]]] = []
    left = 0
    for part, share in chain.from_iterable(_parts(batch, room) for batch in batches):
        if part.block.rows > left:
            shared.append([])
            left = room
        shared[-1].append((part, share))
        left -= part.block.rows
    return shared


def _parts(batch: JobBatch, room: int) -> Iterator[tuple[JobBatch, float]]:
    """Cut a job's batch into equal parts of at most `room` rows, or of one example."""
    rows = batch.block.rows
    per_example = rows // batch.weight
    count = -(-batch.weight // max(1, room // per_example))
    if count == 1:
        yield batch, 1.0
        return
    lengths = tuple(batch.inputs["attention_mask"].sum(dim=1).tolist())
    for examples in torch.arange(batch.weight).tensor_split(count):
        first, last = int(examples[0]), int(examples[-1]) + 1
        inputs = {
            name: tensor[first:last] if name == "labels" else tensor[first * per_example : last * per_example]
            for name, tensor in batch.inputs.items()
        }
        yield replace(batch, inputs=inputs, first=first * per_example, batch_lengths=lengths), (last - first) / batch.weight
