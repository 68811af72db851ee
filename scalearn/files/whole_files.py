"""Files that appear whole or not at all: written beside their place, and then moved there. Planning imports this module: no torch."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file into an existing directory; readers see it whole or not at all, and several writers do not disturb each other.

    Raises:
        OSError: It cannot be written; what was there before is there still.
    """
    beside = beside_of(path)
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def beside_of(path: Path) -> Path:
    """Return where to write a file before it is put in its place."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
