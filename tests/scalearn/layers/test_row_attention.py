"""Rows one behind the other: how they are grouped, and that each attends to its own tokens alone."""

import math
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalearn.layers import row_layout
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.row_attention import AttentionDropout, attend
from scalearn.layers.row_layout import RowLayout, grouped

HEADS, HIDDEN = 2, 8


def layout_of(*lengths: int) -> RowLayout:
    return RowLayout.of(lengths, torch.arange(sum(lengths)).unsqueeze(0))


def cost(lengths: Sequence[int], groups: Sequence[tuple[int, int]]) -> int:
    """Entries of scores, and the constant of every group."""
    rounded = [-(-length // 8) * 8 for length in lengths]
    return sum(row_layout._GROUP_COST + (end - first) * max(rounded[first:end]) ** 2 for first, end in groups)


@given(st.lists(st.integers(1, 120), min_size=1, max_size=9))
def test_no_division_into_powers_of_two_of_neighbours_costs_less(lengths: list[int]) -> None:
    rows = len(lengths)
    borders = [chosen for count in range(rows) for chosen in combinations(range(1, rows), count)]
    divisions = [list(zip((0, *chosen), (*chosen, rows), strict=True)) for chosen in borders]
    found = grouped(lengths)
    assert [row for first, end in found for row in range(first, end)] == list(range(rows))
    allowed = [groups for groups in divisions if all((end - first).bit_count() == 1 for first, end in groups)]
    assert cost(lengths, found) == min(cost(lengths, groups) for groups in allowed)


def test_short_rows_share_a_group_and_long_ones_do_not() -> None:
    assert grouped([5, 6, 7, 9]) == [(0, 4)]
    assert grouped([5, 300]) == [(0, 1), (1, 2)]
    assert grouped([300, 300]) == [(0, 2)]


def by_definition(query: Tensor, key_value: Tensor, lengths: Sequence[int], *, first_token: bool) -> Tensor:
    outputs, start = [], 0
    for row, length in enumerate(lengths):
        own = key_value[start : start + length]
        queries = query[row : row + 1] if first_token else query[start : start + length]
        for head in range(HEADS):
            part = slice(head * HIDDEN // HEADS, (head + 1) * HIDDEN // HEADS)
            scores = queries[:, part] @ own[:, :HIDDEN][:, part].T / math.sqrt(HIDDEN // HEADS)
            outputs.append(scores.softmax(-1) @ own[:, HIDDEN:][:, part])
        start += length
    rows = [torch.cat(outputs[first : first + HEADS], dim=1) for first in range(0, len(outputs), HEADS)]
    return torch.cat(rows)


@pytest.mark.parametrize("first_token", [False, True])
@pytest.mark.parametrize("lengths", [(3,), (1, 4, 2), (2, 2, 2), (60, 3, 90, 1, 1)])
def test_rows_attend_as_the_definition_says_with_its_gradients(lengths: tuple[int, ...], first_token: bool) -> None:
    layout = layout_of(*lengths)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(len(lengths) if first_token else layout.tokens, HIDDEN, generator=generator, dtype=torch.float64)
    key_value = torch.randn(layout.tokens, 2 * HIDDEN, generator=generator, dtype=torch.float64)
    given_tensors = [query.requires_grad_(), key_value.requires_grad_()]
    mine = attend(query, key_value, layout, HEADS)
    theirs = by_definition(query, key_value, lengths, first_token=first_token)
    torch.testing.assert_close(mine, theirs)
    weights = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((mine * weights).sum(), given_tensors), torch.autograd.grad((theirs * weights).sum(), given_tensors)
    )


def test_dropout_has_the_gradient_of_what_it_computed() -> None:
    layout, dropout = layout_of(3, 1, 4), AttentionDropout(0.4, RowBlock(3, 4, 5), 7)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(8, width, generator=generator, dtype=torch.float64, requires_grad=True) for width in (HIDDEN, 2 * HIDDEN)]
    assert torch.autograd.gradcheck(lambda query, key_value: attend(query, key_value, layout, HEADS, dropout), inputs)
    assert not torch.allclose(attend(inputs[0], inputs[1], layout, HEADS, dropout), attend(inputs[0], inputs[1], layout, HEADS))


def test_row_draws_the_same_mask_whichever_rows_are_in_its_group() -> None:
    lengths, heads = (2, 3, 40, 200, 201), 3
    whole = layout_of(*lengths)
    assert len(whole.groups) > 1
    drawn = AttentionDropout(0.3, RowBlock(5, 201, 1, batch_lengths=lengths), 4).kept(whole, heads, torch.zeros(()), first_token=False)
    masks = {}
    for group, mask in zip(whole.groups, drawn, strict=True):
        for row, own in enumerate(mask.view(group.rows, heads, group.length, group.length)):
            length = lengths[group.first + row]
            masks[group.first + row] = own[:, :length, :length]
    for first, end in ((0, 2), (1, 4), (4, 5)):
        part = layout_of(*lengths[first:end])
        block = RowBlock(end - first, 201, 1, first=first, batch_lengths=lengths)
        for group, mask in zip(
            part.groups, AttentionDropout(0.3, block, 4).kept(part, heads, torch.zeros(()), first_token=False), strict=True
        ):
            for row, own in enumerate(mask.view(group.rows, heads, group.length, group.length)):
                length = part.lengths[group.first + row]
                assert torch.equal(own[:, :length, :length], masks[first + group.first + row])
    shares = torch.cat([mask.flatten() for mask in masks.values()])
    assert float(shares.mean()) == pytest.approx(0.7, abs=0.01)
