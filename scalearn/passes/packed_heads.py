"""The heads of a pack's jobs. On a GPU, heads of one shape are computed together, so that a large pack does not wait for tiny kernels."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from scalearn.layers.heads import Head
from scalearn.layers.random_streams import HEAD_DROPOUT, RowBlock


def head_logits(heads: Sequence[Head], states: Sequence[Tensor], blocks: Sequence[RowBlock]) -> list[Tensor]:
    """Score each job's rows by the job's own head.

    Args:
        heads: One per job.
        states: The states of each job's rows: `[its rows, hidden]`.
        blocks: Which rows they are, for the dropout.

    Returns:
        Each job's logits in float32: `[its rows, labels]`.
    """
    alike: dict[object, list[int]] = defaultdict(list)
    for index, (head, rows) in enumerate(zip(heads, states, strict=True)):
        # On a CPU, one product after the other is as fast, and needs no copy of the weights.
        alike[(head.config, head.training, rows.shape[0]) if rows.is_cuda else index].append(index)
    logits: dict[int, Tensor] = {}
    for group in alike.values():
        if len(group) == 1:
            logits[group[0]] = heads[group[0]](states[group[0]], blocks[group[0]])
        else:
            scored = batched_logits([heads[one] for one in group], [states[one] for one in group], [blocks[one] for one in group])
            logits |= zip(group, scored, strict=True)
    return [logits[index] for index in range(len(heads))]


def batched_logits(heads: Sequence[Head], states: Sequence[Tensor], blocks: Sequence[RowBlock]) -> list[Tensor]:
    """Score the rows of K jobs at once.

    Args:
        heads: Heads of one configuration.
        states: `[rows, hidden]` of each job, with the same number of rows for all jobs.
        blocks: Which rows they are.

    Returns:
        For each job, what its head alone returns for its rows.
    """
    config = heads[0].config
    first = torch.stack(list(states)) if config.pooled else _dropped(states, heads, blocks, HEAD_DROPOUT)
    layers = [[head.dense for head in heads if head.dense is not None], [head.out for head in heads]]
    if layers[0]:
        first = _dropped(list(torch.tanh(_linear(layers[0], first))), heads, blocks, HEAD_DROPOUT + 1)
    logits = _linear(layers[1], first).float()
    return [rows.view(-1, config.labels) if config.kind == "multiple_choice" else rows for rows in logits]


def _linear(layers: Sequence[torch.nn.Linear], values: Tensor) -> Tensor:
    """Map `[K, rows, in]` to `[K, rows, out]`, each job by its own layer."""
    weights, biases = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(biases.unsqueeze(1).to(values.dtype), values, weights.transpose(1, 2).to(values.dtype))


def _dropped(values: Sequence[Tensor], heads: Sequence[Head], blocks: Sequence[RowBlock], number: int) -> Tensor:
    """Stack the values of all jobs, each with a mask drawn from the job's own stream."""
    kept = [
        block.dropout(rows, head.dropout, number) if head.training and head.dropout else rows
        for rows, head, block in zip(values, heads, blocks, strict=True)
    ]
    return torch.stack(kept)
