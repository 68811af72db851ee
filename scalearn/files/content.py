"""The hash of a file's content. Planning imports this module, so it imports no torch."""

import hashlib
from functools import cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content. It is computed once per process and state of the file.

    Raises:
        OSError: The file is absent or cannot be read.
    """
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    """Hash a file. With the time of its last change (ns) and its size, the result can be reused."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
