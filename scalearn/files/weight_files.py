"""Tensors by name in safetensors files: written with the mode of any other file, read only if they are what is expected."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalearn.files.tensor_files import read_header, require_shapes, usual_mode


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, which may share memory and lie anywhere.

    Raises:
        OSError: The file cannot be written.
    """
    with usual_mode(path):
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read the tensors of given names and shapes; a file with others is not read.

    Args:
        path: As `save_tensors` wrote it.
        shapes: By name.
        device: Where the tensors go.

    Raises:
        ValueError: The file is damaged, has other tensors, or holds NaN or infinity; the message is a clause.
        OSError: It is absent or cannot be read.
    """
    require_shapes({name: tensor.shape for name, tensor in read_header(path).items()}, shapes)
    try:
        tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    require_finite(path.name, tensors)
    return tensors


def require_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses weights that compute nothing.

    Raises:
        ValueError: They hold NaN or infinity.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{file} holds NaN or infinity")
