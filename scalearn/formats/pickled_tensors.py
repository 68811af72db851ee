"""Read pickled weights without running code from them, and with no more memory than the file's size explains."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from scalearn.files.tensor_files import LARGEST, TensorShape, require_shapes
from scalearn.files.weight_files import require_finite
from scalearn.secrets import clause

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def read_pickled(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Read a state dict that torch pickled.

    Args:
        path: The file. It must not be larger than an adapter may be.
        shapes: Exactly the tensors that it must hold, by name. None: the caller checks them.

    Raises:
        ValueError: It is too large, damaged, compressed, or holds something else. The message is a clause.
        OSError: It is absent.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST} bytes")
    if zipfile.is_zipfile(path):
        _require_stored(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes decide which error the unpickler raises
        raise ValueError(clause(error)) from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()):
        raise ValueError(f"{path.name} is no mapping from names to tensors")
    if shapes is not None:
        require_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes)
        require_finite(path.name, state)
    return dict(state)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorShape]:
    """Return what a header would say about tensors. Those that are not plain numbers in memory get no known type."""
    return {name: TensorShape(_type_name(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}


def _type_name(tensor: Tensor) -> str:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return _NAMES.get(tensor.dtype, str(tensor.dtype)) if plain else f"{tensor.layout} on {tensor.device.type}"


def _require_stored(path: Path) -> None:
    """Refuse compressed records, which torch does not write and which may expand to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    if (
        any(record.compress_type != zipfile.ZIP_STORED for record in records)
        or sum(each.file_size for each in records) > path.stat().st_size
    ):
        raise ValueError(f"{path.name} is compressed, which torch does not write")
