"""Attention over rows whose tokens lie one behind the other: each row attends to its own tokens, and no padding is computed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalearn.layers.random_streams import RowBlock, dropped
from scalearn.layers.row_layout import RowGroup, RowLayout


@dataclass(frozen=True)
class AttentionDropout:
    """The dropout of one attention in one pass."""

    rate: float
    block: RowBlock
    number: int
    """Number of the dropout among those of the backbone."""

    def kept(self, layout: RowLayout, heads: int, like: Tensor, *, first_token: bool) -> list[Tensor]:
        """Draw the mask of every row at its own length, `[heads, queries, keys]`, and lay out those of each group.

        Args:
            layout: The rows.
            heads: Number of heads.
            like: A tensor of the type and device of the probabilities.
            first_token: Whether each row has one query only.

        Returns:
            A mask per group, `[its rows * heads, queries, keys]`, 0 where a probability is dropped and else 1.
        """
        entries = [heads * length * (1 if first_token else length) for length in self.block.batch_lengths or layout.lengths]
        first = self.block.first
        before, own = sum(entries[:first]), entries[first : first + len(layout.lengths)]
        drawn = self.block.kept((sum(entries),), like, self.rate, self.number)[before : before + sum(own)]
        by_row, place, masks = drawn.split(own), 0, []
        for group in layout.groups:
            rows = range(group.first, group.first + group.rows)
            entries_of_group = sum(own[row] for row in rows)
            queries = 1 if first_token else group.length
            if group.places is None:
                mask = drawn[place : place + entries_of_group].view(-1, queries, group.length)
            else:
                mask = like.new_zeros((group.rows, heads, queries, group.length))
                for index, row in enumerate(rows):
                    length = layout.lengths[row]
                    mask[index, :, : min(length, queries), :length] = by_row[row].view(heads, -1, length)
                mask = mask.flatten(0, 1)
            masks.append(mask)
            place += entries_of_group
        return masks


class _Attend(torch.autograd.Function):
    """Softmax attention per group of rows. One function for all groups keeps few tensors, and leaves padding's gradients out."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, layout: RowLayout, heads: int, rate: float, *masks: Tensor) -> Tensor:
        """Attend.

        Args:
            ctx: Where the backward pass finds what it needs.
            query: `[tokens, hidden]`; `[rows, hidden]` for the first tokens alone.
            key_value: Keys, then values: `[tokens, 2 hidden]`.
            layout: The rows.
            heads: Number of heads.
            rate: Dropout probability.
            masks: One per group, as `AttentionDropout.kept` returns them. None at all: nothing is dropped.

        Returns:
            The shape of `query`.
        """
        first_token = query.shape[0] != key_value.shape[0]
        output = torch.empty_like(query)
        output[layout.real_tokens :] = 0.0
        saved: list[Tensor] = []
        for number, group in enumerate(layout.groups):
            queries = _by_head(_rows_of(query, group, first_token), group.rows, heads) * _scale(query, heads)
            keys, values = _keys_and_values(key_value, group, heads)
            scores = torch.bmm(queries, keys.transpose(1, 2))
            if group.padding is not None:
                scores.view(group.rows, heads, -1, group.length).add_(group.padding.to(scores.dtype))
            # In float32, since a softmax over few 16-bit numbers takes a CPU several times as long.
            probabilities = _wide(scores).softmax(-1).to(scores.dtype)
            weights = dropped(probabilities, masks[number], rate) if masks else probabilities
            attended = _by_token(torch.bmm(weights, values), group.rows, heads)
            if first_token:
                output[group.first : group.first + group.rows] = attended
            else:
                group.scatter(attended, output)
            saved += [queries, keys, values, probabilities]
        ctx.save_for_backward(*saved, *masks)
        ctx.layout, ctx.heads, ctx.rate, ctx.shapes = layout, heads, rate, (query.shape, key_value.shape)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        layout, heads, rate, (query_shape, key_value_shape) = ctx.layout, ctx.heads, ctx.rate, ctx.shapes
        output = gradients[0]
        first_token = query_shape[0] != key_value_shape[0]
        of_query, of_key_value = output.new_empty(query_shape), output.new_empty(key_value_shape)
        of_query[layout.real_tokens :] = of_key_value[layout.real_tokens :] = 0.0
        saved = ctx.saved_tensors  # read once, as gradient checkpointing demands
        masks = saved[4 * len(layout.groups) :]
        for number, group in enumerate(layout.groups):
            queries, keys, values, probabilities = saved[4 * number : 4 * number + 4]
            own = output[group.first : group.first + group.rows] if first_token else group.spread(output)
            attended = _by_head(own, group.rows, heads)
            weights = dropped(probabilities, masks[number], rate) if masks else probabilities
            of_values = torch.bmm(weights.transpose(1, 2), attended)
            of_weights = torch.bmm(attended, values.transpose(1, 2))
            of_probabilities = dropped(of_weights, masks[number], rate) if masks else of_weights
            of_scores = _softmax_backward(_wide(of_probabilities), _wide(probabilities)).to(output.dtype)
            of_keys = torch.bmm(of_scores.transpose(1, 2), queries)
            of_queries = _by_token(torch.bmm(of_scores, keys), group.rows, heads) * _scale(output, heads)
            if first_token:
                of_query[group.first : group.first + group.rows] = of_queries
            else:
                group.scatter(of_queries, of_query)
            hidden = query_shape[1]
            group.scatter(_by_token(of_keys, group.rows, heads), of_key_value[:, :hidden])
            group.scatter(_by_token(of_values, group.rows, heads), of_key_value[:, hidden:])
        return of_query, of_key_value, *[None] * (3 + len(masks))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    return torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)


def _scale(tokens: Tensor, heads: int) -> float:
    return 1.0 / math.sqrt(tokens.shape[-1] // heads)


def _rows_of(query: Tensor, group: RowGroup, first_token: bool) -> Tensor:
    return query[group.first : group.first + group.rows] if first_token else group.gather(query)


def _by_head(tokens: Tensor, rows: int, heads: int) -> Tensor:
    """Bring `[rows * length, hidden]` to `[rows * heads, length, hidden / heads]`."""
    length = tokens.shape[0] // rows
    return tokens.view(rows, length, heads, -1).transpose(1, 2).reshape(rows * heads, length, -1)


def _by_token(by_head: Tensor, rows: int, heads: int) -> Tensor:
    """Bring `[rows * heads, length, hidden / heads]` to `[rows * length, hidden]`."""
    length = by_head.shape[1]
    return by_head.view(rows, heads, length, -1).transpose(1, 2).reshape(rows * length, -1)


def _keys_and_values(key_value: Tensor, group: RowGroup, heads: int) -> tuple[Tensor, Tensor]:
    both = group.gather(key_value).view(group.rows, group.length, 2, heads, -1).permute(2, 0, 3, 1, 4)
    keys, values = both.reshape(2, group.rows * heads, group.length, -1)
    return keys, values


def attend(query: Tensor, key_value: Tensor, layout: RowLayout, heads: int, dropout: AttentionDropout | None = None) -> Tensor:
    """Let every row attend to its own tokens.

    Args:
        query: `[tokens, hidden]`; `[rows, hidden]` for the first tokens alone.
        key_value: Keys, then values: `[tokens, 2 hidden]`.
        layout: The rows.
        heads: Number of heads.
        dropout: The dropout of probabilities. None: there is none.

    Returns:
        The attended values, in the shape of `query`.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # (IA)3 scales keys and values in float32; the backward pass would meet both types
        query, key_value = (each.to(torch.get_autocast_dtype(device)) for each in (query, key_value))
    first_token = query.shape[0] != key_value.shape[0]
    masks = [] if dropout is None else dropout.kept(layout, heads, query, first_token=first_token)
    attended: Tensor = _Attend.apply(query, key_value, layout, heads, dropout.rate if dropout else 0.0, *masks)  # type: ignore[no-untyped-call]
    return attended
