"""LoRAs in PEFT's layout, checked by their files only: what each computes, and whether it can be added up with others.

Planning imports this module, so it imports neither torch nor PEFT, and touches no network.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scalearn.backbone.linear_modules import POOLER, Sizes
from scalearn.errors import UserError
from scalearn.files.json_files import read_json
from scalearn.files.tensor_files import LARGEST, TensorShape, read_header
from scalearn.secrets import clause

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's parameters."""
_PART = re.compile(rf"{re.escape(PREFIX)}(?P<place>.+)\.lora_(?P<side>[AB])\.weight", re.DOTALL)
_HEADS = ("classifier", "pre_classifier", "qa_outputs", "score", POOLER)
"""Parts of transformers' models after the last layer. A source does not need them, so they are left out, as a head of AdapterHub is."""
_TYPES = ("F64", "F32", "F16", "BF16")
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the weights of the backbone, so that A and B are no difference from it."""
_MORE_THAN_A_PRODUCT = ("lora_bias", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config")
"""Fields that must be off. With them, a LoRA is more than `s B A x` at linear modules. So do all that begin with `use_` (DoRA, ...),
except `use_rslora`, so that a variant of tomorrow is not taken for a plain one."""
_PLAIN_KEY = re.compile(r"\^?[\w.]+")


class LoraPart(NamedTuple):
    """A and B at one module."""

    down: str
    """Name of A in the file, `[rank, inputs]`."""
    up: str
    """Name of B in the file, `[outputs, rank]`."""
    rank: int
    scale: float
    """The factor s of `s B A x`."""


@dataclass(frozen=True)
class LoraConfig:
    """What a LoRA's configuration says of its computation."""

    rank: int
    alpha: float
    rslora: bool
    """Whether the factor is alpha / sqrt(rank), and not alpha / rank."""
    ranks: Mapping[str, int]
    """Other ranks, by the end of a module's name."""
    alphas: Mapping[str, float]

    def at(self, place: str) -> tuple[int, float]:
        """Return rank and factor at a module, by its name in PEFT's model of the backbone."""
        rank, alpha = _of_pattern(self.ranks, place, self.rank), _of_pattern(self.alphas, place, self.alpha)
        return int(rank), factor(rank, alpha, self.rslora)


def factor(rank: float, alpha: float, rslora: bool) -> float:
    """Return the factor s of `s B A x`."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def tensor_names(module: str) -> tuple[str, str]:
    """Return PEFT's names of A and B at a module of the backbone."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def require_alike(method: str, loras: Mapping[str, Mapping[str, tuple[int, float]]]) -> None:
    """Refuse LoRAs that cannot be merged into one, because A and B are averaged apart.

    Args:
        method: Key of the method that merges them.
        loras: Rank and factor by module, of each LoRA by name.

    Raises:
        UserError: They differ in rank, factor or modules.
    """
    products = {product for each in loras.values() for product in each.values()}
    if len(products) > 1 or len({frozenset(each) for each in loras.values()}) > 1:
        does = "averages" if method == "adaptersoup" else "merges"
        raise UserError(
            f"Method '{method}' {does} LoRAs of one rank and alpha at the same modules, but {', '.join(loras)} differ: "
            "stack LoRAs that were trained alike."
        )


def is_peft(directory: Path) -> bool:
    """Tell whether a directory holds something that PEFT saved."""
    try:
        return "peft_type" in read_json(directory / CONFIG)
    except (OSError, ValueError, TypeError):
        return False


def lora_weights(name: str, directory: Path) -> Path:
    """Return the file that holds a LoRA's weights.

    Raises:
        UserError: The directory has another layout, lacks a file, or holds pickled weights.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"Source adapter '{name}': {directory} holds no {CONFIG}; give a directory that PEFT's save_pretrained wrote.")
    if not is_peft(directory):
        raise UserError(
            f"Source adapter '{name}': {directory} is not in PEFT's layout, but the sources are LoRAs: "
            "write sources: {method: adapter} to stack adapters of AdapterHub."
        )
    if not (directory / WEIGHTS).is_file():
        pickled = f" but pickled weights ({PICKLED}), which can run code when read" if (directory / PICKLED).is_file() else ""
        raise UserError(f"Source adapter '{name}': {directory} holds no {WEIGHTS}{pickled}; save it with safe_serialization=True.")
    return directory / WEIGHTS


def read_lora_config(name: str, directory: Path) -> LoraConfig:
    """Return what a LoRA computes, if it is nothing but `s B A x` at linear modules.

    Raises:
        UserError: It is more or something else, or the configuration is damaged. The sentence names the field.
    """
    path = directory / CONFIG
    try:
        saved = read_json(path)
        problem = _obstacle(saved)
        if problem is None:
            ranks, alphas = (dict(saved.get(field) or {}) for field in ("rank_pattern", "alpha_pattern"))
            for rank in (saved["r"], *ranks.values()):
                if type(rank) is not int or not 0 < rank <= LARGEST:
                    raise ValueError(f"r must be a whole number above 0, not {str(rank)[:40]}")
            for alpha in (saved["lora_alpha"], *alphas.values()):
                if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
                    raise ValueError(f"lora_alpha must be a number, not {str(alpha)[:40]}")
            return LoraConfig(saved["r"], saved["lora_alpha"], bool(saved.get("use_rslora", False)), ranks, alphas)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"Source adapter '{name}': {path} is no LoRA configuration ({clause(error)}); save it again with PEFT.") from error
    raise UserError(f"Source adapter '{name}' cannot be added up with others ({problem}): train it with PEFT's LoraConfig without that.")


def _obstacle(saved: Mapping[str, Any]) -> str | None:
    """Return the field that makes more of a LoRA than `s B A x`, with its value. None: there is none."""
    if saved["peft_type"] != "LORA":
        return f"peft_type: {str(saved['peft_type'])[:40]}"
    if saved.get("bias", "none") != "none":
        return f"bias: {str(saved['bias'])[:40]}"
    variants = [field for field in saved if field.startswith("use_") and field != "use_rslora"]
    for field in (*_MORE_THAN_A_PRODUCT, *variants):
        if saved.get(field):
            return f"{field}: {str(saved[field])[:40]}"
    if str(saved.get("init_lora_weights")).lower().startswith(_OTHER_BASE):
        return f"init_lora_weights: {str(saved['init_lora_weights'])[:40]}, which changes the backbone"
    others = [str(each) for each in saved.get("modules_to_save") or () if each not in _HEADS]
    if others:
        return f"modules_to_save: {', '.join(others)[:80]}"
    for field in ("rank_pattern", "alpha_pattern"):
        odd = next((str(key) for key in saved.get(field) or {} if not _PLAIN_KEY.fullmatch(str(key))), None)
        if odd is not None:
            return f"{field} with the expression {odd[:40]!r}; only names of modules are read"
    return None


def lora_parts(name: str, directory: Path, known: Sizes | None) -> dict[str, LoraPart]:
    """Return where a LoRA adds, by its file's header alone.

    Args:
        name: Name under which it is stacked.
        directory: Directory with configuration and weights.
        known: The linear modules of the backbone. None: not known yet, so names and sizes are not compared.

    Returns:
        What it adds, by the name of the module in the backbone or, if `known` is None, in PEFT's model.

    Raises:
        UserError: The weights are damaged, hold another tensor, or have another rank than the configuration says; or the backbone has no
            such module, or one of another size.
    """
    path = lora_weights(name, directory)
    config = read_lora_config(name, directory)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.name} has more than {LARGEST} bytes")
        header = read_header(path)
        found: dict[str, LoraPart] = {}
        for place, (down, up) in _pairs(header).items():
            module, (rank, scale) = _module(place, known), config.at(place)
            inputs, outputs = (header[down].shape[-1], header[up].shape[0]) if known is None else known[module]
            for tensor, wanted in ((down, (rank, inputs)), (up, (outputs, rank))):
                if header[tensor].shape != wanted:
                    raise ValueError(f"{tensor[:120]!r} has shape {list(header[tensor].shape)[:5]}, but {list(wanted)} is needed")
            found[module] = LoraPart(down, up, rank, scale)
        if not found:
            raise ValueError("they hold no LoRA of a linear module")
    except (OSError, ValueError) as error:
        raise UserError(
            f"Source adapter '{name}': the weights in {directory} cannot be used ({clause(error)}); train it on this backbone."
        ) from error
    return found


def _pairs(header: Mapping[str, TensorShape]) -> dict[str, tuple[str, str]]:
    """Return the names of A and B at each place. Heads are left out.

    Raises:
        ValueError: A tensor is not part of such a pair, or of a type that is not read. The message is a clause.
    """
    sides: dict[str, dict[str, str]] = {}
    for name, tensor in header.items():
        if any(segment in _HEADS for segment in name.removeprefix(PREFIX).split(".")[:2]):
            continue
        part = _PART.fullmatch(name)
        if part is None or len(tensor.shape) != 2:
            raise ValueError(f"{name[:120]!r} would not be used by a LoRA of linear modules")
        if tensor.dtype not in _TYPES:
            raise ValueError(f"{name[:120]!r} is of type {tensor.dtype}, which is none of {', '.join(_TYPES)}")
        sides.setdefault(part["place"], {})[part["side"]] = name
    for place, pair in sides.items():
        if len(pair) != 2:
            raise ValueError(f"at {place[:120]!r} there is only one of A and B")
    return {place: (pair["A"], pair["B"]) for place, pair in sides.items()}


def _module(place: str, known: Sizes | None) -> str:
    """Return the backbone's name of a module, which PEFT may have named from a model with a head: `bert.encoder...`.

    Raises:
        ValueError: The backbone has no such module. The message is a clause.
    """
    names = (place, place.partition(".")[2])
    module = place if known is None else next((name for name in names if name in known), None)
    if module is None:
        raise ValueError(f"it adds at {place[:120]!r}, where this backbone has no linear module")
    return module


def _of_pattern(values: Mapping[str, float], place: str, default: float) -> float:
    """Return the value of the first key that is the module's name or its end after a dot; with `^` before it, its whole name."""
    for key, value in values.items():
        if place == key.removeprefix("^") or place.endswith(f".{key}"):
            return value
    return default
