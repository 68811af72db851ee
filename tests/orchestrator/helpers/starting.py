"""Starting Ray's nodes on a machine that is busy."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def patiently(start: Callable[[], T]) -> T:
    """Try again where a busy machine takes longer than the half minute that Ray gives a node to start."""
    for _ in range(2):
        with contextlib.suppress(Exception):  # whatever Ray raises then
            return start()
    return start()
