"""Tensors in files: read what a safetensors file declares, and write files with the usual mode.

Planning imports this module, so it imports no torch.
"""

import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

_LONGEST_HEADER = 2**20
"""Bytes. One tensor takes about 150 of them."""
LARGEST = 2 * 2**30
"""Most bytes of an adapter's weights that are read. An adapter as wide as the largest known encoder has half of that."""


class TensorShape(NamedTuple):
    """What a header says about a tensor."""

    dtype: str
    """The type's name in safetensors: `F32`, `BF16`, ..."""
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorShape]:
    """Return the names, types and shapes of a safetensors file's tensors without reading the tensors.

    Raises:
        ValueError: It is not a whole safetensors file. The message is a clause.
        OSError: It is absent or cannot be read.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is missing or no regular file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"{path.name} claims a header of {length} bytes, which no such file has")
    try:
        with safe_open(path, "np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tuple(tensors.keys())}
            return {name: TensorShape(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def require_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors whose names or shapes are not the wanted ones.

    Raises:
        ValueError: A name or shape differs. The message is a clause.
    """
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        one = differing[0]
        has, needs = (f"shape {list(shape)[:5]}" if shape is not None else "no place" for shape in (found.get(one), wanted.get(one)))
        raise ValueError(f"{len(differing)} tensors differ: {one[:100]!r} has {has} in the file, and {needs} in the model")


@contextmanager
def usual_mode(*files: Path) -> Iterator[None]:
    """Give files that the block writes the mode of any new file. The writer of safetensors lets only the owner read them."""
    yield
    with tempfile.TemporaryDirectory() as folder:
        # A new file of our own shows the umask. A system call for it would also set it, for other threads too.
        new = Path(folder) / "new"
        new.touch()
        mode = stat.S_IMODE(new.stat().st_mode)
    for file in files:
        file.chmod(mode)
