"""The last layer of a backbone, computed only for the first token, since a classification head reads no other.

The last attention takes keys and values from all tokens. Its queries, and all that follows (output projection, feed-forward block and
adapters), are computed token by token, so the other tokens can be left out there. This saves three quarters or more of the layer's work,
and no result changes.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class _ModuleNames:
    """Names of some modules within a layer."""

    query: str | None
    """The projection to queries. None: the attention needs the queries of all tokens, for example for DeBERTa's relative positions."""
    after_attention: str
    """The first module after the attention, called with its input and the residual."""


_BERT = _ModuleNames("attention.self.query", "attention.output")
_MODULE_NAMES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "deberta-v2": _ModuleNames(None, "attention.output"),
    "distilbert": _ModuleNames("attention.q_lin", "attention_adapters"),
}


def keep_first_token(last_layer: nn.Module, model_type: str, attention: str) -> None:
    """Make a backbone's last layer return `[rows, 1, hidden]`, by hooks that a copy of the backbone keeps.

    An architecture that is not listed here still computes all tokens: its layers may share modules (ALBERT) or have other names.

    Args:
        last_layer: The last layer.
        model_type: Name of the architecture in the backbone's configuration.
        attention: `eager` or `sdpa`. The mask of `sdpa` is made for the queries of all tokens.
    """
    if (names := _MODULE_NAMES.get(model_type)) is None:
        return
    if names.query is not None and attention == "eager":
        last_layer.get_submodule(names.query).register_forward_pre_hook(_first_token)
    last_layer.get_submodule(names.after_attention).register_forward_pre_hook(_first_token)


def _first_token(module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(each[:, :1] if isinstance(each, Tensor) else each for each in inputs)
