"""Batches: padding, shapes, types; and orders that group rows by length."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalearn.data import collate, length_grouped_order


def row(length: int, label: Any = 0) -> dict[str, Any]:
    ids = list(range(1, length + 1))
    return {"input_ids": ids, "attention_mask": [1] * length, "token_type_ids": [1] * length, "label": label}


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), multiple=st.sampled_from([1, 8, 16]))
def test_padding_is_the_least_multiple_and_hides_nothing(lengths: list[int], multiple: int) -> None:
    batch = collate([row(length) for length in lengths], 99, pad_to_multiple_of=multiple)
    width = batch["input_ids"].shape[1]
    assert width % multiple == 0
    assert max(lengths) <= width < max(lengths) + multiple
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["token_type_ids"].sum(dim=1).tolist() == lengths
    assert bool((batch["input_ids"][batch["attention_mask"] == 0] == 99).all())
    for ids, mask, length in zip(batch["input_ids"], batch["attention_mask"], lengths, strict=True):
        assert ids[mask == 1].tolist() == list(range(1, length + 1))


def test_multiple_choice_is_flat_with_one_label_per_row() -> None:
    rows = [
        {"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]], "label": 1},
        {"input_ids": [[4], [5, 6, 7]], "attention_mask": [[1], [1] * 3], "label": 0},
    ]
    batch = collate(rows, 0)
    assert batch["input_ids"][:, :3].tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [5, 6, 7]]
    assert batch["input_ids"].shape == (4, 8)
    assert batch["labels"].tolist() == [1, 0]
    assert "token_type_ids" not in batch


@pytest.mark.parametrize(
    ("labels", "dtype", "shape"),
    [([1, 0, 2], torch.int64, (3,)), ([0.5, 4.0, 2.0], torch.float32, (3,)), ([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], torch.float32, (3, 2))],
)
def test_labels_have_the_type_of_their_loss(labels: list[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    batch = collate([row(3, label) for label in labels], 0)
    assert batch["labels"].dtype == dtype
    assert batch["labels"].shape == shape
    assert batch["labels"].tolist() == labels


@given(lengths=st.lists(st.integers(1, 300), max_size=400), batch=st.integers(1, 33), seed=st.integers(0, 5))
def test_length_grouping_is_a_permutation(lengths: list[int], batch: int, seed: int) -> None:
    order = length_grouped_order(lengths, batch, seed)
    assert sorted(order) == list(range(len(lengths)))
    assert order == length_grouped_order(lengths, batch, seed)


def test_length_grouping_pads_less_than_chance_and_starts_with_the_longest() -> None:
    lengths = [1 + (n * 7919) % 128 for n in range(3200)]

    def padded(order: list[int]) -> int:
        return sum(32 * max(lengths[row] for row in order[start : start + 32]) for start in range(0, len(order), 32))

    order = length_grouped_order(lengths, 32, 0)
    assert padded(order) < 0.65 * padded(list(range(3200)))
    assert max(lengths[row] for row in order[:32]) == max(lengths)
    assert order != length_grouped_order(lengths, 32, 1)
