"""How much memory the rows of a batch take on the device at hand: a dry forward and backward pass, no data and no optimiser."""

import torch
from torch import Tensor

from scalearn.config import JobConfig
from scalearn.device import open_accelerator
from scalearn.encoder import Encoder
from scalearn.layers.random_streams import RowBlock
from scalearn.methods.branch import Branch
from scalearn.methods.build import build_branch
from scalearn.source_adapters import SourceAdapters


def bytes_per_row(encoder: Encoder, config: JobConfig, length: int, sources: SourceAdapters | None = None, rows: int = 4) -> float:
    """Measures the bytes that one more row of a training batch takes.

    On a GPU it is what the peak of a whole step grows by. On a CPU, whose peak nobody counts, it is what the forward pass keeps for the
    backward pass.

    Args:
        encoder: The shared backbone, on the device to be measured.
        config: A job like those that will run: its method, settings and precision count.
        length: Tokens per row, padding included.
        sources: The job's source adapters.
        rows: The measured batches have so many rows, and twice as many.
    """
    accelerator = open_accelerator(config.optimisation.precision, encoder.device.type)
    branch = build_branch(config, encoder, sources)
    encoder.train()
    branch.train()
    try:
        with accelerator.autocast():
            _dry_step(encoder, branch, 1, length)  # the first step also loads kernels
            small, large = (_dry_step(encoder, branch, count, length) for count in (rows, 2 * rows))
    finally:
        encoder.eval()
        encoder.release()
    return max(0.0, (large - small) / rows)


def _dry_step(encoder: Encoder, branch: Branch, rows: int, length: int) -> int:
    """Runs one step on made-up tokens; returns the bytes that it took at its peak."""
    ids = torch.randint(5, 1000, (rows, length), generator=torch.Generator().manual_seed(0)).to(encoder.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    block = RowBlock(rows, length, seed=0)
    if encoder.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(encoder.device)
        before = torch.cuda.memory_allocated(encoder.device)
        encoder(inputs, [branch], [block]).square().mean().backward()
        taken = torch.cuda.max_memory_allocated(encoder.device) - before
    else:
        taken = _kept_for_backward(encoder, inputs, branch, block)
    branch.zero_grad(set_to_none=True)
    return taken


def _kept_for_backward(encoder: Encoder, inputs: dict[str, Tensor], branch: Branch, block: RowBlock) -> int:
    """Counts the storages that autograd keeps, each once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = encoder(inputs, [branch], [block])
        loss = output.square().mean()
    loss.backward()
    return sum(kept.values())
