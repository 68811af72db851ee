"""Names that people type: say which valid one they may have meant."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Return a clause that names the valid name nearest to a wrong one, or else all of them.

    Args:
        name: What was typed.
        valid: Every name that would have been accepted.

    Returns:
        `did you mean 'x'?` where one is close, `known are a, b, c` otherwise. A short list (up to 8 names) is always shown.
    """
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    listed = f"known are {', '.join(names[:40])}" + (", ..." if len(names) > 40 else "")
    if not close:
        return listed
    return f"did you mean '{close[0]}'?" + (f" ({listed})" if len(names) <= 8 else "")
