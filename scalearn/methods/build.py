"""From a job's method key to the branch that the method adds to the backbone."""

import importlib
from collections.abc import Callable

import torch

from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.methods.registry import get_method

BranchBuilder = Callable[[JobConfig, Encoder, SourceAdapters | None], Branch]


def build_branch(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> Branch:
    """Build a job's branch on the encoder's device, initialised from the job's seed alone.

    Args:
        config: The job.
        encoder: The frozen backbone.
        sources: The job's source adapters; None for methods without.

    Raises:
        UserError: The method is unknown.
    """
    module, _, function = get_method(config.method).builder.partition(":")
    build: BranchBuilder = getattr(importlib.import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        branch = build(config, encoder, sources)
    return branch.to(encoder.device)
