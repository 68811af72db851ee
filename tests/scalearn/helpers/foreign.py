"""Tiny random models of architectures that the adapters library does not serve here, saved with a tokenizer, and a LoRA job on them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "mpnet": {**_SIZES, "max_position_embeddings": 66},
    "modernbert": _SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48},
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": _GROUPED,
    "gemma3_text": _GROUPED,
    "opt": {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
ENCODERS = ("mpnet", "modernbert")


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """One token per byte. That of an encoder has a first, a last and a padding token; that of a decoder only an end-of-sequence token."""
    special = {"<s>": 0, "<pad>": 1, "</s>": 2}
    alphabet = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}
    backend = Tokenizer(models.BPE(vocab={**special, **alphabet}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    named: dict[str, str] = {"eos_token": "</s>"}
    if kind in ENCODERS:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
        named |= {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **named)


def tiny_model(kind: str, **entries: Any) -> Any:
    """A random model whose weights are larger than usual, so that every part of it shows in the output."""
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    config = CONFIG_MAPPING[kind](**{**KINDS.get(kind, _SIZES), **special, "vocab_size": 259, **entries})
    model = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save_tiny(kind: str, directory: Path, **entries: Any) -> str:
    tiny_model(kind, **entries).save_pretrained(directory)
    tokenizer_of(kind).save_pretrained(directory)
    return str(directory)
