"""The last layer of a backbone, computed only for the first token, since a classification head reads no other.

The last attention takes keys and values from all tokens. Its queries, and all that follows (output projection, feed-forward block and
adapters), are computed token by token, so the other tokens can be left out there. This saves three quarters or more of the layer's work,
and no result changes.
"""

from functools import partial

from torch import Tensor, nn

from scalearn.layers.random_streams import RowStreams


def keep_first_token(module: nn.Module, streams: RowStreams) -> None:
    """Let a module of a backbone's last layer see each row's first token alone, by a hook that a copy of the backbone keeps.

    Args:
        module: Called with `[rows, length, hidden]` or, where rows are not padded, `[1, tokens, hidden]` or `[1, rows, hidden]`.
        streams: Tells where the rows of a pass lie.
    """
    module.register_forward_pre_hook(partial(_first_tokens, streams))


def _first_tokens(streams: RowStreams, module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    layout = streams.layout
    if layout is None:
        return tuple(each[:, :1] if isinstance(each, Tensor) else each for each in inputs)
    return tuple(layout.first_of(each) if isinstance(each, Tensor) else each for each in inputs)
