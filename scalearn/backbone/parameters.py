"""How many parameters an encoder has, by a formula on its configuration. Full fine-tuning learns all of them."""

from collections.abc import Mapping
from typing import Any

_TOKEN_TYPES = {"bert": 2, "roberta": 2, "xlm-roberta": 2, "deberta-v2": 0, "distilbert": 0}
"""The default of transformers where a configuration does not say."""


def encoder_parameters(config: Mapping[str, Any], hidden: int, layers: int, intermediate: int) -> int | None:
    """Count embeddings and layers, without a pooler, which no head reads.

    With hidden size d, intermediate size i, v tokens, p positions and t token types, the BERT family has `d (v + p + t + 2) + layers * (4
    (d^2 + d) + 2 d i + i + d + 4 d)`. DeBERTa-v2 also has relative positions, and other parts that its configuration requires.

    Args:
        config: Entries of the configuration, among them `model_type`, `vocab_size` and `max_position_embeddings`.
        hidden: Hidden size d.
        layers: Number of layers.
        intermediate: Size i of the feed-forward blocks.

    Returns:
        The count. None: there is no formula for the architecture.
    """
    architecture = config["model_type"]
    if architecture not in _TOKEN_TYPES:
        return None
    # DistilBERT has no token types, whatever its configuration says.
    types = 0 if architecture == "distilbert" else _number(config, "type_vocab_size", _TOKEN_TYPES[architecture])
    tables = config["vocab_size"] + config["max_position_embeddings"] + types
    block = 2 * hidden * intermediate + intermediate + hidden
    if architecture == "deberta-v2":
        return _deberta(config, hidden, layers, tables, block)
    count: int = hidden * (tables + 2) + layers * (4 * (hidden**2 + hidden) + block + 4 * hidden)
    return count


def _deberta(config: Mapping[str, Any], d: int, layers: int, tables: int, block: int) -> int:
    """Count DeBERTa-v2: embeddings of their own size, attention to relative positions, and a convolution beside the first layer."""
    if not config.get("position_biased_input", True):
        tables -= config["max_position_embeddings"]
    size = _number(config, "embedding_size", d)
    embeddings = size * tables + (size * d if size != d else 0) + 2 * d
    heads = _number(config, "num_attention_heads", 1)
    attention = heads * _number(config, "attention_head_size", d // heads)
    projection = (d + 1) * attention
    projections, positions = 3, 0
    if config.get("relative_attention", False):
        # Twice the distance, for both directions; -1 means the longest input.
        longest = _number(config, "max_relative_positions", -1)
        longest = longest if longest >= 1 else config["max_position_embeddings"]
        buckets = _number(config, "position_buckets", -1)
        positions = 2 * (buckets if buckets > 0 else longest) * d
        if not config.get("share_att_key", False):
            kinds = config.get("pos_att_type") or ()
            kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
            projections += sum(kind in kinds for kind in ("c2p", "p2c"))
        if "layer_norm" in str(config.get("norm_rel_ebd", "none")).lower():
            positions += 2 * d
    kernel = _number(config, "conv_kernel_size", 0)
    convolution = d * (d // _number(config, "conv_groups", 1)) * kernel + 3 * d if kernel > 0 else 0
    layer = projections * projection + (attention + 1) * d + block + 4 * d
    return int(embeddings + positions + convolution + layers * layer)


def _number(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name)
    return default if value is None else int(value)
