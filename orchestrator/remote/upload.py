"""The working directory as a small archive: what a job on another machine needs of it, without the files that git ignores."""

import os
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from scalearn.errors import UserError

MAX_BYTES = 100 * 1024**2
"""Sweep files and code take a few megabytes. Larger files are data or results, which belong in the store or the data root."""

_LEFT_OUT = frozenset({".git", ".venv", "venv", "env", "__pycache__", "node_modules", "runs", "mlruns", "build", "dist"})
"""Names of directories that no job needs. Names that begin with a dot and end with `cache` are left out too."""
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the archive. The same content then makes the same archive, which Ray uploads only once."""


def pack_directory(directory: Path, archive: Path, leave_out: frozenset[Path] = frozenset(), more: Mapping[str, str] | None = None) -> int:
    """Write the files of a directory into a zip archive.

    In a git working copy `.gitignore` and similar files are obeyed. Environments, results and caches of the usual names are left out.

    Args:
        directory: The directory to pack.
        archive: The file to write, outside of the directory.
        leave_out: Absolute paths of further files to leave out, for example a token.
        more: Texts of files that are not in the directory, by their path in the archive.

    Returns:
        Bytes of the packed files, before compression.

    Raises:
        UserError: The directory is too large. The sentence names its largest parts.
    """
    files = [path for path in _files(directory) if path.absolute() not in leave_out]
    sizes = {path: path.stat().st_size for path in files}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        raise UserError(_too_large(directory, sizes, total))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(directory).as_posix(), _OLDEST)
            entry.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, path.read_bytes())
        for name, text in (more or {}).items():
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = 0o100644 << 16
            target.writestr(entry, text)
    return total


def _files(directory: Path) -> list[Path]:
    """Return the files to pack, sorted. Links are left out, since they may lead out of the directory."""
    named = _not_ignored(directory)
    found = _walk(directory) if named is None else (directory / name for name in named if not _left_out(Path(name)))
    return sorted({path for path in found if path.is_file() and not path.is_symlink()})


def _not_ignored(directory: Path) -> list[str] | None:
    """Return the files of a directory that git tracks or would add. None: it is no working copy, or git is not installed."""
    command = ["git", "-C", str(directory), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(directory: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not _left_out(Path(name))]
        yield from (Path(place) / name for name in names if not _left_out(Path(name)))


def _left_out(path: Path) -> bool:
    return path.suffix == ".pyc" or any(part in _LEFT_OUT or (part.startswith(".") and part.endswith("cache")) for part in path.parts)


def _too_large(directory: Path, sizes: dict[Path, int], total: int) -> str:
    largest: Counter[str] = Counter()
    for path, size in sizes.items():
        largest[path.relative_to(directory).parts[0]] += size
    named = ", ".join(f"{name} ({_megabytes(size)})" for name, size in largest.most_common(3))
    excess = f"{_megabytes(total)} to upload, more than {_megabytes(MAX_BYTES)}"
    return f"The working directory {directory} has {excess}: name {named} in .gitignore, or choose --working-dir."


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MiB"
