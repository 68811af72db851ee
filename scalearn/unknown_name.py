"""The sentence for an unknown name, with the nearest known one."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str], *, where: str | None = None) -> str:
    """Return one sentence with the unknown name, the nearest known name and, if they are few, all known names.

    >>> unknown("task", "glue/rts", ["glue/rte", "glue/cola"])
    "Unknown task 'glue/rts'; did you mean 'glue/rte'? Known: glue/cola, glue/rte."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [each for each in names if each.endswith(f"/{name}")][:1]
    place = f" in {where}" if where else ""
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listing = f"{'' if near else '.'} Known: {', '.join(names)}." if len(names) <= 30 or not near else ""
    return f"Unknown {what} {name!r}{place}{hint}{listing}"
