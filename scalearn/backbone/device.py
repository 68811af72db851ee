"""A device: its name, its memory, and the precision in which it computes fastest. accelerate is not needed here."""

import os
import platform
from pathlib import Path

import torch

from scalearn.config import Precision
from scalearn.errors import UserError


def device_name(device_type: str) -> str:
    """Return the device's usual name: `NVIDIA H100 80GB HBM3`, `2-core AMD EPYC CPU`."""
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))}-core {model} CPU"


def device_memory(device_type: str) -> float:
    """Return the bytes of the device, or of the machine's memory that one worker may use."""
    if device_type == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    # Workers share the machine's memory, and the driver needs some too.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (len(os.sched_getaffinity(0)) + 1)


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
