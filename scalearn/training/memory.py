"""How much memory jobs take on this device, by dry forward and backward passes without data; and how to see that it ran out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalearn.backbone.accelerator import open_accelerator
from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig, Setting
from scalearn.formats.lora_files import LoraSources
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import BottleneckWeights, SourceStack, identity
from scalearn.methods.bottleneck import build as build_adapter
from scalearn.methods.build import build_branch
from scalearn.methods.lora import LoraBranch
from scalearn.methods.lora import build as build_lora

_COPIES = 5
"""Copies of a learned parameter: itself, its gradient, the optimiser's two moments, and its value at the best evaluation."""

_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "failed to allocate")
"""Words of torch's messages where it has no error type for this: on a CPU, and in GPU libraries."""


def ran_out(error: BaseException) -> bool:
    """Tell whether an error means that the memory of the device or of the machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def free_memory(device: torch.device) -> None:
    """Free the memory of an attempt that ran out. Call this when the error is gone, since the error refers to the attempt's tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Footprint:
    """The memory that jobs of one kind take, in bytes."""

    fixed: int
    """Taken once for all jobs: the backbone."""
    per_stack: int
    """Taken once for all jobs with the same source adapters: these adapters."""
    per_job: int
    """Taken by each job, however small its batch: parameters, gradients, the optimiser's moments, the best parameters."""
    per_row: float
    """Taken by each row of a training batch."""


def footprint(encoder: Encoder, config: JobConfig, length: int, source_settings: Mapping[str, Setting]) -> Footprint:
    """Measure the memory that a job takes. Its source adapters are made up, since their values do not matter.

    Args:
        encoder: The shared backbone, on the device to be measured.
        config: A job like those that will run.
        length: Tokens per row, padding included.
        source_settings: Settings of the jobs that its sources come from, since the sources' width counts.
    """
    sources = _made_up_sources(encoder, config, source_settings) if config.sources else None
    branch = build_branch(config, encoder, sources)
    learned = sum(parameter.numel() * parameter.element_size() for parameter in branch.learned().values())
    backbone = _held(encoder.parameters())
    stacked = _held(tensor for stack in sources.stacks for tensor in stack.buffers()) if sources else 0
    return Footprint(backbone, stacked, _COPIES * learned, bytes_per_row(encoder, config, length, sources))


def _held(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, each counted once."""
    return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def _made_up_sources(encoder: Encoder, config: JobConfig, settings: Mapping[str, Setting]) -> SourceAdapters:
    if config.source_method == "lora":
        return _made_up_loras(build_lora(replace(config, settings=settings), encoder, None), config.sources, encoder.device)
    adapter = build_adapter(replace(config, settings=settings), encoder, None)
    activation = adapter.sites[0].non_linearity
    stacks = tuple(SourceStack([weights] * len(config.sources), activation.f).to(encoder.device) for weights in adapter.weights())
    return SourceAdapters(config.sources, stacks, adapter.config.to_dict(), dict.fromkeys(config.sources, 1.0))


def _made_up_loras(branch: LoraBranch, names: tuple[str, ...], device: torch.device) -> SourceAdapters:
    rank, modules = branch.shape.rank, tuple(branch.shape.modules)
    weights = [
        BottleneckWeights(down, torch.zeros(rank), up, torch.zeros(len(up))) for down, up in zip(branch.down, branch.up, strict=True)
    ]
    stacks = tuple(SourceStack([each] * len(names), identity).to(device) for each in weights)
    lora = LoraSources(modules, ((rank,) * len(modules),) * len(names), ((branch.shape.scale,) * len(modules),) * len(names))
    return SourceAdapters(names, stacks, {}, dict.fromkeys(names, 1.0), lora)


_ROWS = 4
"""Rows of the smaller of the two batches that are measured. The larger one has twice as many."""


def bytes_per_row(encoder: Encoder, config: JobConfig, length: int, sources: SourceAdapters | None = None) -> float:
    """Measure the bytes that one more row of a training batch takes.

    On a GPU, this is the growth of the peak of a whole step. On a CPU, where no peak is recorded, it is what the forward pass keeps for the
    backward pass.

    Args:
        encoder: The shared backbone, on the device to be measured.
        config: A job like those that will run. Its method, settings and precision count.
        length: Tokens per row, padding included.
        sources: The job's source adapters.
    """
    accelerator = open_accelerator(config.optimisation.precision, encoder.device.type)
    branch = build_branch(config, encoder, sources)
    encoder.train()
    branch.train()
    try:
        with accelerator.autocast():
            _dry_step(encoder, branch, 1, length)  # the first step also loads kernels
            small, large = (_dry_step(encoder, branch, count, length) for count in (_ROWS, 2 * _ROWS))
    finally:
        encoder.eval()
        encoder.release()
    return max(0.0, (large - small) / _ROWS)


def _dry_step(encoder: Encoder, branch: Branch, rows: int, length: int) -> int:
    """Run one step on made-up tokens, and return the bytes that it took at its peak."""
    ids = torch.randint(5, 1000, (rows, length), generator=torch.Generator().manual_seed(0)).to(encoder.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    block = RowBlock(rows, length, seed=0)
    if encoder.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(encoder.device)
        before = torch.cuda.memory_allocated(encoder.device)
        loss = encoder(inputs, [branch], [block]).square().mean()
        if loss.requires_grad:  # where only a head learns, nothing is kept
            loss.backward()
        taken = torch.cuda.max_memory_allocated(encoder.device) - before
    else:
        taken = _kept_for_backward(encoder, inputs, branch, block)
    branch.zero_grad(set_to_none=True)
    return taken


def _kept_for_backward(encoder: Encoder, inputs: dict[str, Tensor], branch: Branch, block: RowBlock) -> int:
    """Return the bytes of the storages that autograd keeps, each counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = encoder(inputs, [branch], [block])
        loss = output.square().mean()
    if loss.requires_grad:
        loss.backward()
    return sum(kept.values())
