"""The device and precision of a worker's computations, through accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from scalearn.config import Precision
from scalearn.errors import UserError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """Return what `auto` means on a device: bf16 if matrix products in bf16 are native, otherwise fp32.

    On CPUs with avx512_bf16 or AMX, a MiniLM training step in bf16 autocast takes about two thirds of the time in fp32. Other CPUs emulate
    bf16, which is slower.

    Raises:
        UserError: fp16 was requested on a CPU.
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
    """Return a new accelerator for one pack.

    accelerate keeps device and precision in a state of the whole process. A warm worker runs packs of different precision, so this clears
    that state first.

    Args:
        precision: Precision that the job requests.
        device: `auto`, `cpu` or `cuda`. With several GPUs, `CUDA_VISIBLE_DEVICES` chooses one.

    Raises:
        UserError: A GPU was requested where there is none, or by its number.
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
    """Return a job's own gradient scaler in fp16; None in other precisions.

    A scaler of accelerate would serve the whole pack, so one job's overflow would leave out the steps of all jobs.
    """
    return None if accelerator.scaler is None else torch.amp.GradScaler(accelerator.device.type)


def precision_name(accelerator: Accelerator) -> str:
    """Return the precision in which a pack computed: `fp32`, `bf16` or `fp16`."""
    return {mixed: name for name, mixed in _MIXED.items()}[accelerator.mixed_precision]
