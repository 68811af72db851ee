"""Make the C library keep the memory of freed CPU tensors, since the next step needs the same amount again."""

import ctypes
import platform
import sys
from functools import cache

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


@cache
def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse memory that it has freed, instead of returning it to the system and getting it back, page by page.

    By default, glibc maps every block of over 32 MiB anew and unmaps it when it is freed. The activations of a step are such blocks, and
    the system first fills each with zeros, which takes a third of a large pack's time. The change holds for the whole process and all its
    threads.

    Returns:
        Whether it took effect. False: the C library is not glibc.
    """
    library = _c_library()
    if library is None:
        return False
    # One arena, since the arenas of other threads hold no large blocks.
    options = ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(library.mallopt(option, value) == 1 for option, value in options)


def return_freed_memory() -> None:
    """Return freed memory to the system, so that a waiting process holds no more than it uses."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
