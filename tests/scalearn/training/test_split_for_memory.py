"""How a step's batches are shared out to passes where memory is short."""

from typing import Any

import pytest
import torch

from scalearn.passes.packed_pass import JobBatch, split_for_memory


def batch(examples: int, rows_per_example: int = 1, seed: int = 0) -> JobBatch:
    run: Any = None
    rows = examples * rows_per_example
    ids = torch.arange(rows * 3).view(rows, 3)
    return JobBatch(run, 0, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(examples)}, seed)


@pytest.mark.parametrize(
    ("examples", "passes", "expected"),
    [
        ([8, 8, 8, 8], 2, [[8, 8], [8, 8]]),  # no job is divided
        ([8, 8, 8, 8], 4, [[8], [8], [8], [8]]),
        ([8, 8], 4, [[4], [4], [4], [4]]),
        ([8, 8, 8], 2, [[8], [8], [8]]),  # a pass is never larger than an equal share
        ([4, 12], 2, [[4], [6], [6]]),
        ([3], 8, [[1], [1], [1]]),
    ],
)
def test_whole_jobs_go_together_and_only_what_has_no_room_is_divided(examples, passes, expected):
    shared = split_for_memory([batch(count) for count in examples], passes)
    assert [[part.weight for part, _ in one] for one in shared] == expected


@pytest.mark.parametrize("passes", range(1, 9))
def test_parts_hold_every_row_once_in_order_with_their_share_and_place(passes):
    whole = [batch(6, seed=1), batch(5, rows_per_example=2, seed=2), batch(2, seed=3)]
    shared = [each for one in split_for_memory(whole, passes) for each in one]
    first = torch.cat([part.inputs["input_ids"] for part, _ in shared])
    assert torch.equal(first, torch.cat([each.inputs["input_ids"] for each in whole]))
    assert torch.equal(torch.cat([part.inputs["labels"] for part, _ in shared]), torch.cat([each.inputs["labels"] for each in whole]))
    assert sum(share for _, share in shared) == pytest.approx(len(whole))
    for part, _ in shared:
        origin = next(each for each in whole if each.seed == part.seed)
        assert part.batch_lengths is None or len(part.batch_lengths) == origin.block.rows
        ids = origin.inputs["input_ids"][part.first : part.first + part.block.rows]
        assert torch.equal(part.inputs["input_ids"], ids)
