"""How a sentence shows names or labels of unknown origin, and which of them look the same."""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable

_LONGEST = 100
"""The most characters of a value that a sentence shows."""
_MOST = 20
"""The most names that a sentence lists."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_LONGEST_NUMBER = 15
"""The most characters of numbers that a float can always tell apart."""


def shown(value: object) -> str:
    """Return a value for a sentence, cut if it is long."""
    return cut(repr(value[: _LONGEST + 1] if isinstance(value, str) else value))


def cut(text: str) -> str:
    """Return the beginning of a text for a sentence."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def listed(names: Collection[str]) -> str:
    """Return names for a sentence: without quotes if that shows them fully, else in quotes. A long list is cut.

    >>> listed(["neg", "pos "])
    "neg, 'pos '"
    """
    first = [name if _is_plain(name) else shown(name) for name in list(names)[:_MOST]]
    return ", ".join(first) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def look(text: str) -> str:
    """Return a key that is equal for texts that look the same or mean the same number, without case, white space, invisible characters.

    >>> look("Pos") == look(" pos"), look("0.50") == look("0.5")
    (True, True)
    """
    visible = "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    found = " ".join(visible.split()).casefold()
    if len(found) <= _LONGEST_NUMBER and _NUMBER.fullmatch(found) and math.isfinite(number := float(found)):
        return repr(number + 0.0)  # -0.0 is 0.0
    return found


def same_look(text: str, others: Iterable[str]) -> str | None:
    """Return the first of the other texts that looks the same. None: no other does."""
    wanted = look(text)
    return next((other for other in others if look(other) == wanted), None)


def _is_plain(name: str) -> bool:
    return bool(name) and len(name) <= _LONGEST and name.isprintable() and name == name.strip() and not name.startswith(("'", '"'))
