"""The linear modules of an encoder at which a LoRA adds: which there are, the usual ones, and which of them names mean.

Planning imports this module, so it imports no torch.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from scalearn.backbone.registry import Shape
from scalearn.errors import UserError

Sizes = Mapping[str, tuple[int, int]]
"""Inputs and outputs of linear modules by name, such as `encoder.layer.0.attention.self.query`."""

POOLER = "pooler"
"""The part of some encoders after the last layer, which most heads do not read."""

_REST = ("attention.output.dense", "intermediate.dense", "output.dense")
_BERT = ("attention.self.query", "attention.self.key", "attention.self.value", *_REST)
_DEBERTA = ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj", *_REST)
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
_LAYERS = {
    **dict.fromkeys(("bert", "bert-generation", "electra", "roberta", "xlm-roberta"), ("encoder.layer", _BERT)),
    "deberta-v2": ("encoder.layer", _DEBERTA),
    "distilbert": ("transformer.layer", _DISTILBERT),
}
"""Where layers are, and their linear modules: four of hidden size, then one to the intermediate size and one back."""

_USUAL = {"deberta": ("in_proj",), "deberta-v2": ("query_proj", "value_proj"), "distilbert": ("q_lin", "v_lin")}


def usual_targets(architecture: str) -> tuple[str, ...]:
    """Return the modules at which a LoRA adds by default, as in PEFT and in Hu et al. 2022: those of queries and values."""
    return _USUAL.get(architecture, ("query", "value"))


def matching(names: Iterable[str], targets: Sequence[str]) -> tuple[str, ...]:
    """Return the names that are a target or end with one after a dot, as PEFT's `target_modules` does."""
    return tuple(name for name in names if any(name == target or name.endswith(f".{target}") for target in targets))


def require_modules(known: Sizes, targets: Sequence[str]) -> None:
    """Refuse targets that name no module of a backbone, since nothing would be learned there.

    Raises:
        UserError: A target names none. The sentence says which there are.
    """
    for target in targets:
        if not matching(known, [target]):
            there = dict.fromkeys(name.rpartition(".")[2] for name in known)
            raise UserError(
                f"target_modules names {target[:80]!r}, but the backbone's linear modules are {', '.join(there)}: name some of these."
            )


def kind_of(name: str) -> str:
    """Return what the same module has in common in all layers: `encoder.layer.*.attention.self.query`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def kinds_of(names: Sequence[str]) -> tuple[int, ...]:
    """Return a number for the kind of each module, in the order in which the kinds come: 0, 1, 0, 1, ... for queries and values."""
    kinds = [kind_of(name) for name in names]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return tuple(numbers[kind] for kind in kinds)


def linear_modules(shape: Shape) -> Sizes | None:
    """Return the linear modules in the layers of an encoder, in their order. None: they are not known without the model."""
    if shape.architecture not in _LAYERS:
        return None
    place, names = _LAYERS[shape.architecture]
    d, i = shape.hidden_size, shape.intermediate_size
    sizes = dict(zip(names, (*[(d, d)] * 4, (d, i), (i, d)), strict=True))
    return {f"{place}.{layer}.{name}": size for layer in range(shape.layers) for name, size in sizes.items()}
