"""Tensors by name in safetensors files. They are written with the usual mode, and read only if they are the expected ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalearn.files.tensor_files import read_header, require_shapes, usual_mode


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, which may share memory and be on any device.

    Raises:
        OSError: The file cannot be written.
    """
    with usual_mode(path):
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read tensors of the given names and shapes. A file with other tensors is not read.

    Args:
        path: A file of `save_tensors`.
        shapes: Expected shapes by name.
        device: Device for the tensors.

    Raises:
        ValueError: The file is damaged, has other tensors, or holds NaN or infinity. The message is a clause.
        OSError: The file is absent or cannot be read.
    """
    require_shapes({name: tensor.shape for name, tensor in read_header(path).items()}, shapes)
    try:
        tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    require_finite(path.name, tensors)
    return tensors


def require_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ValueError: They hold NaN or infinity.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{file} holds NaN or infinity")
