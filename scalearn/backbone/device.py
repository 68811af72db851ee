"""The device and precision that a worker computes with, through accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from scalearn.config import Precision
from scalearn.errors import UserError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """Tell what `auto` means on a device: bf16 where matrix products in bf16 are native, otherwise fp32.

    On CPUs with avx512_bf16 or AMX a MiniLM training step in bf16 autocast takes about two thirds of the time in fp32;
    CPUs without them emulate bf16 and lose.

    Raises:
        UserError: fp16 was asked for on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("Precision fp16 needs a GPU: use bf16, fp32 or auto on a CPU.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def open_accelerator(precision: Precision, device: str) -> Accelerator:
    """Return a fresh accelerator for one pack.

    accelerate keeps device and precision in a process-wide state; a warm worker runs packs of different precision, so the
    state is cleared first.

    Args:
        precision: As the job asks for it.
        device: `auto`, `cpu` or `cuda`. Which one of several GPUs is what `CUDA_VISIBLE_DEVICES` says.

    Raises:
        UserError: A GPU was asked for where there is none, or one by its number.
    """
    if device.startswith("cuda:"):
        raise UserError(f"Device {device} cannot be chosen by its number: use cuda, and set CUDA_VISIBLE_DEVICES to the GPU.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"Device {device} was asked for, but this machine has no usable GPU: use device auto or cpu.")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    resolved = torch.device("cpu" if on_cpu else "cuda")
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=on_cpu, mixed_precision=_MIXED[resolve_precision(precision, resolved)])


def gradient_scaler(accelerator: Accelerator) -> torch.amp.GradScaler | None:
    """Return a job's own scaler of gradients in fp16; None in other precisions.

    accelerate's scaler would be the whole pack's: one job's overflow would then leave out the steps of its neighbours.
    """
    return None if accelerator.scaler is None else torch.amp.GradScaler(accelerator.device.type)


def precision_name(accelerator: Accelerator) -> str:
    """Return the precision that a pack computed in: `fp32`, `bf16` or `fp16`."""
    return {mixed: name for name, mixed in _MIXED.items()}[accelerator.mixed_precision]
