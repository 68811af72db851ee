"""JSON that someone else may have written, read within bounds: how long it is, how deep, and what it says.

Library, orchestrator and analysis read by these functions, so that a file is sound for all three or for none. Planning and the analysis
import this module: it imports nothing but the standard library.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SMALL = 4 * 2**20
"""Bytes of the largest configuration, and of the largest JSON file of one job, that is read; ours have a few thousand."""

LARGEST = 256 * 2**20
"""Bytes of the largest file of a store that is read as a whole; a manifest of 100,000 jobs with 15 sources has half of it. A stranger's
may be larger than memory."""

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
"""What a path answers that names no file."""


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Return a local file's bytes.

    Raises:
        ValueError: It has more than `limit` bytes; the message is a clause.
        OSError: It is absent, or cannot be read.
    """
    # Non-blocking: a pipe in the place of a file must not hold us up.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    require_size(len(data), limit)
    return data


def require_size(size: int, limit: int | None) -> None:
    """Refuse a file that is too large.

    Raises:
        ValueError: It has more than `limit` bytes; the message is a clause.
    """
    if limit is not None and size > limit:
        raise ValueError(f"it has more than {limit} bytes")


def names_no_file(error: OSError) -> bool:
    """Tell whether an error says that there is no file at a path, whatever else may lie there."""
    # Object stores raise FileNotFoundError without a number.
    return isinstance(error, FileNotFoundError) or error.errno in _NO_FILE


def decode(data: bytes) -> dict[str, Any]:
    """Return the JSON object that some bytes spell.

    Raises:
        ValueError: They spell none, or one with NaN, infinity or half a character, or one too deep to be ours; the message is a clause.
    """
    try:
        value = json.loads(data, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in data:
            # An escape can stand for half a character, which is no text and fits into no frame, name or file.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} where an object belongs")
    return value


def parse(data: bytes) -> dict[str, Any] | None:
    """Return what `decode` returns; None where it raises."""
    try:
        return decode(data)
    except ValueError:
        return None


def json_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Iterate over the JSON objects in the lines of a file. A line that is being written, or that a full disk has torn, is passed over."""
    return (value for line in data.splitlines() if (value := parse(line)) is not None)


def encode(value: Mapping[str, Any]) -> bytes:
    """Return a value as the text of a JSON file.

    Raises:
        ValueError: It holds NaN, infinity or half a character.
    """
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return what a configuration says.

    Raises:
        ValueError: It is too large, nested too deeply, says one key twice, or is no JSON; the message is a clause.
        OSError: It is absent, no regular file, or cannot be read.
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
