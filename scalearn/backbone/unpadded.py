"""Backbones whose rows need no padding: which architectures, and what is changed in them.

The tokens of all rows of a pass stand one behind the other, as one long row. All that a backbone computes token by token needs no change.
Only the attention and the positions know where a row ends.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scalearn.layers.first_token import keep_first_token
from scalearn.layers.random_streams import RowDropout, RowStreams
from scalearn.layers.row_attention import AttentionDropout, attend
from scalearn.layers.row_layout import GRAIN, RowLayout
from scalearn.layers.slot import adds_at


@dataclass(frozen=True)
class LayerNames:
    """Names of some modules within a layer, and of attributes of its attention."""

    attention: str = "attention.self"
    query: str = "query"
    key: str = "key"
    value: str = "value"
    heads: str = "num_attention_heads"
    dropout: str = "dropout"
    output: str | None = None
    """The output projection, if it is a part of the attention."""
    after_attention: str | None = "attention.output"
    """The first module after the attention, called with its input and the residual. None: layers share modules, so that no layer is the
    last one."""
    unpadded: bool = True
    """Whether rows need no padding. Otherwise, scores depend on more than queries and keys, such as DeBERTa's relative positions."""
    positions_skip_padding: bool = False
    """Whether positions are counted from the padding token's number, and only for other tokens."""


_BERT = LayerNames()
_ROBERTA = LayerNames(positions_skip_padding=True)
_LAYER_NAMES = {
    "bert": _BERT,
    "electra": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": LayerNames("attention", "q_lin", "k_lin", "v_lin", "n_heads", output="out_lin", after_attention="attention_adapters"),
    "albert": LayerNames("attention", dropout="attention_dropout", output="dense", after_attention=None),
    "deberta-v2": LayerNames(unpadded=False),
}


class RowAttention:
    """Takes the place of an attention's `forward`. It computes rows without padding itself, and leaves padded ones to the library."""

    def __init__(self, module: Any, names: LayerNames, streams: RowStreams, *, first_token: bool) -> None:
        """Read weights, heads and dropout of `module`. With `first_token`, only each row's first token gets an output."""
        self.module, self.names, self.streams, self.first_token = module, names, streams, first_token
        self.padded: Callable[..., tuple[Tensor, ...]] = module.forward
        self.plain = True
        """Whether the projections hold nothing of the adapters library. Then they may be computed in one product."""
        self.joined: tuple[Tensor, Tensor] | None = None

    def __call__(self, *given: Any, **named: Any) -> tuple[Tensor, ...]:
        """Attend as the library's attention does: hidden states `[1, tokens, hidden]` to a tuple that begins with the attended ones."""
        layout = self.streams.layout
        if layout is None:
            return self.padded(*given, **named)
        hidden: Tensor = given[0] if given else named["query"]
        query, key_value = self._joined(hidden, layout) if self._joins() else self._apart(hidden, layout)
        heads: int = getattr(self.module, self.names.heads)
        attended = attend(query[0], key_value[0], layout, heads, self._dropout()).unsqueeze(0)
        if self.names.output is not None:
            attended = getattr(self.module, self.names.output)(attended)
        if self.names.after_attention is None:  # ALBERT's attention ends with residual and layer norm
            attended = self.module.attention_adapters(hidden, self.module.output_dropout(attended), self.module.LayerNorm)
        return (attended,)

    def _dropout(self) -> AttentionDropout | None:
        dropout: RowDropout = getattr(self.module, self.names.dropout)
        if not self.module.training or dropout.rate == 0.0:
            return None
        return AttentionDropout(dropout.rate, self.streams.blocks[0], dropout.number)

    def _projections(self) -> tuple[Any, Any, Any]:
        return tuple(getattr(self.module, name) for name in (self.names.query, self.names.key, self.names.value))

    def _joins(self) -> bool:
        """Tell whether one product gives what the modules would: they are plain, frozen, and no job of this pass adds at them."""
        frozen = not any(parameter.requires_grad for each in self._projections() for parameter in (each.weight, each.bias))
        return self.plain and frozen and not any(map(adds_at, self._projections()))

    def _apart(self, hidden: Tensor, layout: RowLayout) -> tuple[Tensor, Tensor]:
        """Project with the modules themselves, which may learn, or at which something is added."""
        query, key, value = self._projections()
        return query(layout.first_of(hidden) if self.first_token else hidden), torch.cat([key(hidden), value(hidden)], dim=-1)

    def _joined(self, hidden: Tensor, layout: RowLayout) -> tuple[Tensor, Tensor]:
        weight, bias = self._joined_weights()
        width = weight.shape[0] // 3
        if self.first_token:
            query = functional.linear(layout.first_of(hidden), weight[:width], bias[:width])
            return query, functional.linear(hidden, weight[width:], bias[width:])
        projected = functional.linear(hidden, weight, bias)
        return projected[..., :width], projected[..., width:]

    def _joined_weights(self) -> tuple[Tensor, Tensor]:
        """Return the three projections as one. The modules' own weights become parts of it, so that it takes no memory of its own."""
        projections = self._projections()
        first = projections[0].weight
        if self.joined is None or self.joined[0].data_ptr() != first.data_ptr():
            with torch.inference_mode(False):  # a first pass in inference mode must not spoil the weights for training
                self.joined = torch.cat([each.weight.data for each in projections]), torch.cat([each.bias.data for each in projections])
            for parts, name in zip(self.joined, ("weight", "bias"), strict=True):
                for module, part in zip(projections, parts.chunk(3), strict=True):
                    getattr(module, name).data = part
        return self.joined


def leave_out_padding(model: Any, streams: RowStreams) -> bool:
    """Change a frozen model so that it computes no padding, and only what a head reads of the last layer.

    Args:
        model: A model of the adapters library. Its dropouts are those of `streams`.
        streams: Tells, in every pass, where the rows lie.

    Returns:
        Whether rows need no padding. Otherwise the architecture is not known here, or its attention needs padded rows.
    """
    config = model.config
    names = _LAYER_NAMES.get(config.model_type)
    if names is None:
        return False
    layers: list[nn.Module] = [layer for _, layer in model.iter_layers()]
    if names.after_attention is not None:
        if names.unpadded and config._attn_implementation == "eager":  # the mask of `sdpa` is made for the queries of all tokens
            keep_first_token(layers[-1].get_submodule(f"{names.attention}.{names.query}"), streams)
        keep_first_token(layers[-1].get_submodule(names.after_attention), streams)
    if not names.unpadded or getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        return False
    for layer in layers:
        attention: Any = layer.get_submodule(names.attention)
        attention.forward = RowAttention(attention, names, streams, first_token=names.after_attention is not None and layer is layers[-1])
    positions = model.base_model.embeddings.position_embeddings
    positions.register_forward_pre_hook(partial(_positions_of_rows, streams))
    return True


def without_padding(model: Any, inputs: Mapping[str, Tensor]) -> tuple[RowLayout, dict[str, Tensor]]:
    """Return where rows lie without padding, and the inputs of the model for them.

    Args:
        model: A model for which `leave_out_padding` returned true.
        inputs: `input_ids`, `attention_mask` and, if the model has them, `token_type_ids`: `[rows, length]`.

    Returns:
        The layout, and inputs of shape `[1, tokens]`.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    if _LAYER_NAMES[model.config.model_type].positions_skip_padding:
        padding = model.config.pad_token_id
        counted = ids != padding
        positions = counted.cumsum(dim=1) * counted + padding
    else:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    layout = RowLayout.of(mask.sum(dim=1).tolist(), _in_a_row(positions, mask))
    accepted = {"input_ids": _in_a_row(ids, mask)}
    if hasattr(model.base_model.embeddings, "token_type_embeddings"):
        accepted["token_type_ids"] = _in_a_row(inputs.get("token_type_ids", torch.zeros_like(ids)), mask)
    return layout, {**accepted, "attention_mask": torch.ones_like(accepted["input_ids"])}


def _in_a_row(values: Tensor, mask: Tensor) -> Tensor:
    """Bring `[rows, length]` to `[1, tokens]`, filled up with zeros."""
    tokens = values[mask]
    return functional.pad(tokens, (0, -len(tokens) % GRAIN)).unsqueeze(0)


def row_attentions(model: nn.Module) -> Iterator[RowAttention]:
    """Return what `leave_out_padding` put into a model."""
    for module in model.modules():
        if isinstance(forward := module.__dict__.get("forward"), RowAttention):
            yield forward


def _positions_of_rows(streams: RowStreams, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs if streams.layout is None else (streams.layout.positions,)
