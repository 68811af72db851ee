"""JSON that someone else wrote, read within bounds: how long it is, how deep, and what it says once.

Planning imports this module, so it imports neither torch nor transformers.
"""

import json
from pathlib import Path
from typing import Any

_LARGEST = 4 * 2**20
"""Bytes of a configuration. Those of 10,000 named labels have less than a tenth of it."""


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises:
        ValueError: It is too large, nested too deeply, says one key twice, or is no JSON; the message is a clause.
        OSError: It is absent, no regular file, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_said_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {twice[:100]!r} twice")
    return entries
