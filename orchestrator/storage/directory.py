"""A store that is a directory: what lies in it, of whatever kind, and where a file is written before it is put in its place."""

import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
"""What a path answers that names no file."""


def first_unwritable(directory: Path, names: Iterable[str]) -> str | None:
    """Return the first of some files that this user may not read and write: it is another's. None: all are ours."""
    return next((name for name in names if not os.access(directory / name, os.R_OK | os.W_OK)), None)


def walk(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over what lies below a directory, by its name relative to it, with its kind, size and time. Links are not followed."""
    base = str(path)
    if path.is_symlink():
        yield "", {"type": "link", "size": 0}
        return
    closed: list[str] = []
    for directory, folders, files in os.walk(base, onerror=lambda error: closed.append(str(error.filename))):
        for name in [*files, *(folder for folder in folders if os.path.islink(os.path.join(directory, folder)))]:
            place = os.path.join(directory, name)
            try:
                facts = os.lstat(place)
            except FileNotFoundError:
                continue
            kind = "link" if stat.S_ISLNK(facts.st_mode) else "file" if stat.S_ISREG(facts.st_mode) else "other"
            yield os.path.relpath(place, base).replace(os.sep, "/"), {"type": kind, "size": facts.st_size, "mtime": facts.st_mtime}
    for folder in closed:
        if os.path.isdir(folder):
            yield os.path.relpath(folder, base).replace(os.sep, "/"), {"type": "closed", "size": 0}


def beside_of(path: Path) -> Path:
    """Return where to write a file before it is put in its place whole; its folder is there then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # which would say that somebody has written the file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")


def names_no_file(error: OSError) -> bool:
    """Tell whether an error says that there is no file at a path, whatever else may lie there."""
    # Object stores raise FileNotFoundError without a number.
    return isinstance(error, FileNotFoundError) or error.errno in _NO_FILE


def size_of(path: Path) -> int:
    """Return a file's bytes; 0 where there is none, or nothing that this user may look at."""
    try:
        return path.stat().st_size
    except OSError as error:
        if not (names_no_file(error) or isinstance(error, PermissionError)):
            raise
        return 0


def missing(path: Path, why: str) -> FileNotFoundError:
    """Return the error for a file that ought to be there."""
    return FileNotFoundError(errno.ENOENT, why, str(path))
