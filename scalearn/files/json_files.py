"""Safe reading of JSON that someone else may have written, with limits on its size, its depth and its content.

Library, orchestrator and analysis all use these functions, so that a file is sound for all three or for none. Planning and the analysis
import this module, so it imports only the standard library.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SMALL = 4 * 2**20
"""Most bytes of a configuration, or of one job's JSON file. Our own have a few thousand."""

LARGEST = 256 * 2**20
"""Most bytes of a store's file that is read as a whole. A manifest of 100,000 jobs with 15 sources has half of that. A file from elsewhere
may be larger than memory."""

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
"""Numbers of the errors that mean that a path names no file."""


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Return a local file's bytes.

    Raises:
        ValueError: It has more than `limit` bytes. The message is a clause.
        OSError: It is absent or cannot be read.
    """
    # Non-blocking, so that a pipe in place of a file does not block us.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    require_size(len(data), limit)
    return data


def require_size(size: int, limit: int | None) -> None:
    """Refuse a file that is too large.

    Raises:
        ValueError: It has more than `limit` bytes. The message is a clause.
    """
    if limit is not None and size > limit:
        raise ValueError(f"it has more than {limit} bytes")


def names_no_file(error: OSError) -> bool:
    """Tell whether an error means that there is no file at a path, though something else may lie there."""
    # Object stores raise FileNotFoundError without an error number.
    return isinstance(error, FileNotFoundError) or error.errno in _NO_FILE


def decode(data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes.

    Raises:
        ValueError: They hold no object, or one with NaN, infinity or half a character, or a too deep one. The message is a clause.
    """
    try:
        value = json.loads(data, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in data:
            # An escape can stand for half a character, which cannot be encoded in a frame, name or file.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} where an object belongs")
    return value


def parse(data: bytes) -> dict[str, Any] | None:
    """Return the result of `decode`, or None if it raises."""
    try:
        return decode(data)
    except ValueError:
        return None


def json_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Iterate over the JSON objects in the lines of a file. A line that is still being written or was cut by a full disk is skipped."""
    return (value for line in data.splitlines() if (value := parse(line)) is not None)


def encode(value: Mapping[str, Any]) -> bytes:
    """Return a value as the text of a JSON file.

    Raises:
        ValueError: It holds NaN, infinity or half a character.
    """
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return the content of a configuration file.

    Raises:
        ValueError: It is too large, nested too deeply, has a key twice, or is no JSON. The message is a clause.
        OSError: It is absent, not a regular file, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")
    try:
        return json.loads(read_bytes(path, SMALL), object_pairs_hook=_said_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {twice[:100]!r} twice")
    return entries


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        _refuse(text)
    return value
