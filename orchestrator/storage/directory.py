"""A store that is a directory: what lies in it, and how a file is put there whole."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scalearn.files.json_files import names_no_file
from scalearn.files.whole_files import beside_of

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV})
"""The errors of file systems without hard links."""


def first_unwritable(directory: Path, names: Iterable[str]) -> str | None:
    """Return the first file that this user may not read and write, since it belongs to another user. None: there is none."""
    return next((name for name in names if not os.access(directory / name, os.R_OK | os.W_OK)), None)


def walk(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over all entries below a directory, by relative name, with kind, size and time. Links are not followed."""
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


def make_folder_of(path: Path) -> None:
    """Make the folder of a file if it does not exist."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # raised as it is, it would mean that somebody has written the file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def create_whole(path: Path, data: bytes) -> None:
    """Link a finished file into place. With `O_EXCL` alone, a reader could see half of it.

    Raises:
        FileExistsError: Somebody else has written the file.
    """
    make_folder_of(path)
    beside = beside_of(path)
    try:
        beside.write_bytes(data)
        os.link(beside, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then finds the link that it has made.
        if beside.stat().st_nlink < 2:
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("xb") as file:
            file.write(data)
    finally:
        beside.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 if there is no file, or this user may not look at it."""
    try:
        return path.stat().st_size
    except OSError as error:
        if not (names_no_file(error) or isinstance(error, PermissionError)):
            raise
        return 0
