"""What a file holds, told by its hash. Planning imports this module: no torch."""

import hashlib
from functools import cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, computed once per process and state of the file.

    Raises:
        OSError: It is absent, or cannot be read.
    """
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    """Hash a file; the time of its change (ns) and its size make the answer reusable."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
