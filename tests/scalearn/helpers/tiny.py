"""Tiny random encoders of every supported architecture, in memory, with adapters of the adapters library on them."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from adapters import AutoAdapterModel
from adapters.configuration import SeqBnConfig
from torch import Tensor
from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from scalearn.backbone.encoder import Encoder
from scalearn.backbone.registry import Backbone, Shape, shape_of
from scalearn.layers.branch import Branch
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import BottleneckWeights, SourceStack
from scalearn.model.model import LoadedBackbone

HIDDEN, LAYERS, VOCABULARY = 32, 2, 60
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
CONFIGS: Mapping[str, Any] = {
    "roberta": lambda **extra: RobertaConfig(**{**_SIZES, **extra}),
    "xlm-roberta": lambda **extra: XLMRobertaConfig(**{**_SIZES, **extra}),
    "bert": lambda **extra: BertConfig(**{**_SIZES, **extra}),
    "deberta-v2": lambda **extra: DebertaV2Config(
        **{**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8, **extra}
    ),
    "distilbert": lambda **extra: DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=extra.get("hidden_size", HIDDEN),
        n_layers=LAYERS,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=40,
    ),
}


def architecture(name: str, **extra: Any) -> PretrainedConfig:
    config: PretrainedConfig = CONFIGS[name](**extra)
    return config


def library_model(name: str, seed: int = 0, attention: str = "eager", **extra: Any) -> Any:
    """A random model; its weights are larger than usual, so that every part of it shows in the output."""
    torch.manual_seed(seed)
    model = AutoAdapterModel.from_config(architecture(name, **extra), attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def encoder_of(model: Any) -> Encoder:
    """An encoder with a copy of a library model's weights, without its adapters."""
    copied = copy.deepcopy(model)
    for name in list(copied.adapters_config.adapters):
        copied.delete_adapter(name)
    return Encoder(copied).eval()


@cache
def tiny_encoder(name: str = "bert", hidden: int = HIDDEN) -> Encoder:
    return encoder_of(library_model(name, hidden_size=hidden))


def loaded(encoder: Encoder, tokenizer: Any = None) -> LoadedBackbone:
    return LoadedBackbone(Backbone("tiny", "files:sha256-0", shape(encoder)), encoder, tokenizer)


def shape(encoder: Encoder) -> Shape:
    return shape_of("tiny", encoder.config.to_dict())


def add_random_adapter(model: Any, name: str, reduction: float = 4, **settings: Any) -> None:
    model.add_adapter(name, config=SeqBnConfig(reduction_factor=reduction, **settings))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".adapters.{name}." in key:
                parameter.normal_(std=0.3)


def save_adapters(model: Any, root: Path, names: tuple[str, ...]) -> dict[str, str | Path]:
    root.mkdir(exist_ok=True)
    for name in names:
        model.save_adapter(str(root / name), name, use_safetensors=True, with_head=False)
    return {name: root / name for name in names}


def random_stacks(sites: int, sources: int, hidden: int, width: int, seed: int = 0, scale: float = 0.3) -> list[SourceStack]:
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator) * scale

    return [
        SourceStack(
            [BottleneckWeights(random(width, hidden), random(width), random(hidden, width), random(hidden)) for _ in range(sources)]
        )
        for _ in range(sites)
    ]


def token_batch(rows: int = 3, length: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Token ids with some padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    return {"input_ids": torch.randint(5, VOCABULARY, (rows, length), generator=generator), "attention_mask": mask}


def states_of(encoder: Encoder, branch: Branch, inputs: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    rows, length = inputs["input_ids"].shape
    return encoder(inputs, [branch], [RowBlock(rows, length, seed)])
