"""A backbone of two tiny layers and jobs on it, so that tests of training take seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.methods.registry import get_method
from scalearn.methods.settings import resolve_settings
from scalearn.tasks import get_task
from scalearn.tasks.origin import data_origin
from scalearn.training.loop import train
from scalearn.training.pack import Outcome, PackMember
from scalearn.training.runtime import Runtime

HIDDEN, LAYERS = 32, 2


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that ids read back as text; pairs and token types as BERT's."""
    special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}
    alphabet = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}
    backend = Tokenizer(models.BPE(vocab={**special, **alphabet}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save_backbone(directory: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def data(task: str, **settings: Any) -> DataConfig:
    rows: dict[str, Any] = {"train_rows": 24, "evaluation_rows": 12, "max_length": 24, **settings}
    return DataConfig(task, data_origin(get_task(task), None), **rows)


def job(
    method: str,
    tasks: tuple[DataConfig, ...],
    backbone: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    sources: tuple[str, ...] = (),
    **optimisation: Any,
) -> JobConfig:
    entry = get_method(method)
    reduction = {"reduction_factor": 4} if "reduction_factor" in entry.rules else {}
    values: dict[str, Any] = {**entry.optimisation, "batch_size": 8, "epochs": 1, "max_steps": None, "precision": "fp32", **optimisation}
    return JobConfig(
        benchmark="domains",
        stage=entry.stage,
        method=method,
        data=tasks,
        backbone=backbone,
        backbone_origin=get_backbone(backbone).origin,
        optimisation=OptimisationConfig(**values),
        seed=seed,
        sources=sources,
        settings=resolve_settings(entry, {**reduction, **(settings or {})}, len(sources)),
    )


def run(config: JobConfig, directory: Path, parents: Mapping[str, Path] | None = None, report: Any = lambda *_: None) -> Outcome:
    directory.mkdir(parents=True, exist_ok=True)
    (outcome,) = train([PackMember(config, directory, parents or {})], Runtime(device="cpu"), report)
    return outcome
