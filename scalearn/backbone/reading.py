"""Where a head reads a text in a backbone's last hidden states: at the first token, at the last one, or as the mean over all tokens."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from scalearn.errors import UserError
from scalearn.secrets import clause

Reading = Literal["first", "last", "mean"]

_MEAN = ("mpnet",)
"""Architectures whose known models were trained so that the mean over tokens stands for a text (sentence encoders)."""

_CHANGE = 1e-5
"""The share of the largest state by which one must differ to have seen another token. Rounding stays below it."""


def reading_of(model: Any) -> Reading:
    """Find out where a model can be read, by which tokens see which: three tokens in three rows that differ in the first or the last one.

    This is measured, not looked up, since an architecture's name does not tell: some decoders can be configured to look ahead.

    Args:
        model: A model of transformers that reads token ids. It is put into evaluation mode.

    Returns:
        `mean` where models are made for it, `first` if the first token sees the last one, otherwise `last`.

    Raises:
        UserError: It reads something else than token ids, or neither end sees the other.
    """
    architecture = model.config.model_type
    if architecture in _MEAN:
        return "mean"
    ids = torch.tensor([[3, 4, 5], [3, 4, 6], [2, 4, 5]], device=model.device)
    try:
        with torch.no_grad():
            states: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))[0].float()
        changed = _CHANGE * float(states.abs().max())
        if states.shape[-1] != model.config.hidden_size:
            problem = f"its last states have {states.shape[-1]} entries, not {model.config.hidden_size} as those before"
        elif float((states[1, 0] - states[0, 0]).abs().max()) > changed:
            return "first"
        elif float((states[2, -1] - states[0, -1]).abs().max()) > changed:
            return "last"
        else:
            problem = "neither its first token nor its last sees the whole text"
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        problem = f"it cannot be given token ids and their mask alone ({clause(error)})"
    raise UserError(f"A backbone of architecture '{architecture}' cannot be read, since {problem}: take an encoder or a decoder of texts.")


def pad_behind(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move padding that stands before or among the tokens of a row behind them, so that positions begin with the first token.

    A row without tokens, an empty text of a decoder, keeps one padding token, since attention to nothing is not defined.

    Args:
        inputs: `input_ids`, `attention_mask` and perhaps `token_type_ids`: `[rows, length]`.
    """
    mask = inputs["attention_mask"]
    if not bool(mask.any(dim=1).all()):
        mask = mask.clone()
        mask[~mask.any(dim=1), 0] = 1
        inputs = {**inputs, "attention_mask": mask}
    if bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return dict(inputs)
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {name: each.gather(1, order) for name, each in inputs.items()}


def read(states: Tensor, mask: Tensor, reading: Reading) -> Tensor:
    """Return what a head reads of each row: `[rows, length, hidden]` to `[rows, hidden]`.

    Args:
        states: Last hidden states.
        mask: 1 for tokens, 0 for the padding behind them: `[rows, length]`.
        reading: Where to read.
    """
    if reading == "first":
        return states[:, 0]
    if reading == "last":
        last = mask.sum(dim=1) - 1
        return states[torch.arange(len(states), device=states.device), last]
    share = mask.unsqueeze(-1).to(states) / mask.sum(dim=1).view(-1, 1, 1)
    return (states * share).sum(dim=1)
