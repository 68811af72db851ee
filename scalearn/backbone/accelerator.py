"""accelerate with the device and precision of a pack."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from scalearn.backbone.device import resolve_precision
from scalearn.config import Precision
from scalearn.errors import UserError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


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


def products_type(accelerator: Accelerator) -> torch.dtype:
    """Return the type in which autocast multiplies."""
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]
