"""The linear modules of a backbone at which a LoRA adds: which there are, the usual ones, and which of them names mean.

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

_REST = {"attention.output.dense": "dd", "intermediate.dense": "di", "output.dense": "id"}
_BERT = {"attention.self.query": "dd", "attention.self.key": "dd", "attention.self.value": "dd", **_REST}
_DEBERTA = {"attention.self.query_proj": "dd", "attention.self.key_proj": "dd", "attention.self.value_proj": "dd", **_REST}
_DISTILBERT = {
    **dict.fromkeys(("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"), "dd"),
    "ffn.lin1": "di",
    "ffn.lin2": "id",
}
_MPNET = {
    **dict.fromkeys(("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"), "dd"),
    "intermediate.dense": "di",
    "output.dense": "id",
}
_MODERNBERT = {"attn.Wqkv": "dt", "attn.Wo": "dd", "mlp.Wi": "du", "mlp.Wo": "id"}
_GPT2 = {"attn.c_attn": "dt", "attn.c_proj": "dd", "mlp.c_fc": "di", "mlp.c_proj": "id"}
_LLAMA = {
    "self_attn.q_proj": "dq",
    "self_attn.k_proj": "dk",
    "self_attn.v_proj": "dk",
    "self_attn.o_proj": "qd",
    "mlp.gate_proj": "di",
    "mlp.up_proj": "di",
    "mlp.down_proj": "id",
}
_LAYERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    **dict.fromkeys(("bert", "bert-generation", "electra", "roberta", "xlm-roberta"), ("encoder.layer", _BERT)),
    "deberta-v2": ("encoder.layer", _DEBERTA),
    "distilbert": ("transformer.layer", _DISTILBERT),
    "mpnet": ("encoder.layer", _MPNET),
    "modernbert": ("layers", _MODERNBERT),
    "gpt2": ("h", _GPT2),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), ("layers", _LLAMA)),
}
"""Where layers are, and their linear modules, each with the letters of its inputs and outputs: d is the hidden size, i that of feed-forward
blocks, q that of queries, k that of keys and of values, t is 3 d, u is 2 i."""

_USUAL = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("Wqkv",),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("in_proj",),
)
"""What architectures call their queries and values, or the module that computes them in one, as in PEFT's own table."""


def usual_targets(known: Iterable[str]) -> tuple[str, ...]:
    """Return the modules at which a LoRA adds by default, as in PEFT and in Hu et al. 2022: those of queries and values.

    Args:
        known: Names of a backbone's linear modules.

    Returns:
        The ends of their names. Empty: no modules have a usual name.
    """
    names = tuple(known)
    return next((targets for targets in _USUAL if all(matching(names, [target]) for target in targets)), ())


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
            raise UserError(
                f"target_modules names {target[:80]!r}, but the backbone's linear modules are {_ends(known)}: name some of these."
            )


def _ends(known: Sizes) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in known))


def resolve_targets(known: Sizes, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the modules of a backbone that targets name, in the order of the model. No targets: the usual ones.

    Raises:
        UserError: A target names none, or none was named and no module has a usual name.
    """
    wanted = tuple(targets) or usual_targets(known)
    if not wanted:
        raise UserError(
            f"No linear module of the backbone has a usual name of queries and values: set target_modules to some of {_ends(known)}."
        )
    require_modules(known, wanted)
    return matching(known, wanted)


def kind_of(name: str) -> str:
    """Return what the same module has in common in all layers: `encoder.layer.*.attention.self.query`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def kinds_of(names: Sequence[str]) -> tuple[int, ...]:
    """Return a number for the kind of each module, in the order in which the kinds come: 0, 1, 0, 1, ... for queries and values."""
    kinds = [kind_of(name) for name in names]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return tuple(numbers[kind] for kind in kinds)


def linear_modules(shape: Shape) -> Sizes | None:
    """Return the linear modules of a backbone, in their order. None: they are not known without the model."""
    if shape.architecture not in _LAYERS:
        return None
    place, names = _LAYERS[shape.architecture]
    d, i = shape.hidden_size, shape.intermediate_size
    sizes = {"d": d, "i": i, "q": shape.queries or d, "k": shape.keys or d, "t": 3 * d, "u": 2 * i}
    ends = {name: (sizes[letters[0]], sizes[letters[1]]) for name, letters in names.items()}
    before = {"embeddings_project": (shape.embeddings, d)} if shape.embeddings is not None else {}
    return before | {f"{place}.{layer}.{name}": size for layer in range(shape.layers) for name, size in ends.items()}
