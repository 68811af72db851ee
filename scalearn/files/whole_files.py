"""Files that appear whole or not at all: written beside their place, then moved there. Planning imports this, so no torch here."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file into an existing directory. Readers see it whole or not at all, and several writers do not disturb each other.

    Raises:
        OSError: It cannot be written. The earlier file is still there.
    """
    beside = beside_of(path)
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def beside_of(path: Path) -> Path:
    """Return where a file is written before it is moved into its place."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
