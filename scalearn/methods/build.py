"""Build the branch that a job's method adds to the backbone, by the method's key."""

import importlib
from collections.abc import Callable

import torch

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.methods.registry import get_method, require_backbone, require_sources_kind

BranchBuilder = Callable[[JobConfig, Encoder, SourceAdapters | None], Branch]


def build_branch(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> Branch:
    """Build a job's branch on the encoder's device, initialised only from the job's seed.

    Args:
        config: The job.
        encoder: The frozen backbone.
        sources: The job's source adapters. None: the method has none.

    Raises:
        UserError: The method is unknown, cannot combine LoRAs, or cannot add to this backbone.
    """
    method = get_method(config.method)
    source_method = "adapter" if sources is None or sources.lora is None else "lora"
    require_sources_kind(method, source_method)
    require_backbone(method, source_method, encoder.config.model_type)
    module, _, function = method.builder.partition(":")
    build: BranchBuilder = getattr(importlib.import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        branch = build(config, encoder, sources)
    return branch.to(encoder.device)
