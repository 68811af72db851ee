"""Pad rows of token ids into batches of tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int, *, pad_to_multiple_of: int = 8) -> dict[str, Tensor]:
    """Return one batch, padded to its longest row rounded up to a multiple.

    Args:
        rows: Rows of a tokenised split.
        pad_token_id: Fills `input_ids`. Masks and token types are filled with 0.
        pad_to_multiple_of: The length of the batch is a multiple of this number of tokens.

    Returns:
        `input_ids`, `attention_mask` and, where the rows have them, `token_type_ids`: int64 [rows, length], or
        [rows * choices, length] for multiple choice; `labels`: int64 [rows], float32 [rows], or float32 [rows, classes].
    """
    batch = pad_rows(rows, pad_token_id, pad_to_multiple_of=pad_to_multiple_of)
    labels = np.asarray([row["label"] for row in rows])
    batch["labels"] = torch.from_numpy(labels.astype(np.int64 if np.issubdtype(labels.dtype, np.integer) else np.float32))
    return batch


def pad_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int, *, pad_to_multiple_of: int = 8) -> dict[str, Tensor]:
    """Return the inputs of `collate`, for rows that need no label. Empty texts, which have no token in some decoders, are padding alone."""
    batch: dict[str, Tensor] = {}
    for name in INPUTS:
        if name not in rows[0]:
            continue
        sequences = [row[name] for row in rows]
        if isinstance(next(iter(sequences[0]), 0), (Sequence, np.ndarray)):  # one sequence per choice
            sequences = [choice for row in sequences for choice in row]
        longest = max(1, *map(len, sequences))
        length = -(-longest // pad_to_multiple_of) * pad_to_multiple_of
        padded = np.full((len(sequences), length), pad_token_id if name == "input_ids" else 0, dtype=np.int64)
        for row, sequence in enumerate(sequences):
            padded[row, : len(sequence)] = sequence
        batch[name] = torch.from_numpy(padded)
    return batch


def token_count(ids: Sequence[Any]) -> int:
    """Count the tokens of a row, given its `input_ids`. A row of several choices counts as its longest choice."""
    return max(map(len, ids)) if isinstance(next(iter(ids), 0), (Sequence, np.ndarray)) else len(ids)


_GROUP = 50
"""Number of batches whose rows are sorted by length together: enough for little padding, few enough to stay random."""


def length_grouped_order(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """Draw a random order of rows in which neighbours are of similar length, so that batches need little padding.

    Rows are shuffled, cut into groups of 50 batches, and sorted by length within each group. Then the batches are shuffled, with the batch
    of the longest row first, so that a lack of memory shows at once.

    Args:
        lengths: Tokens per row.
        batch_size: Rows per batch.
        seed: Seed of the shuffle.

    Returns:
        The indices of the rows in their new order.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches: list[np.ndarray[Any, np.dtype[np.intp]]] = []
    for start in range(0, len(order), batch_size * _GROUP):
        part = order[start : start + batch_size * _GROUP]
        part = part[np.argsort(-sizes[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    whole = [index for index, batch in enumerate(batches) if len(batch) == batch_size]
    partial = [index for index, batch in enumerate(batches) if len(batch) < batch_size]
    shuffled = [whole[index] for index in generator.permutation(len(whole))]
    if shuffled:
        longest = max(shuffled, key=lambda index: sizes[batches[index]].max())
        shuffled.remove(longest)
        shuffled.insert(0, longest)
    return [int(row) for index in (*shuffled, *partial) for row in batches[index]]
