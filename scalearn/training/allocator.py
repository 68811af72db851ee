"""The C library's allocator, told to keep what tensors on the CPU free: the next step asks for the same again."""

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
    """Lets this process reuse memory that it has freed, instead of returning it to the system and getting it back, page by page.

    By default, glibc maps every block of over 32 MiB anew and unmaps it when it is freed. The activations of a step are such blocks,
    and the system fills each with zeros first: a third of a large pack's time. Holds for the whole process and all its threads.

    Returns:
        Whether it took effect. False: another C library than glibc.
    """
    library = _c_library()
    if library is None:
        return False
    # One arena, since those of other threads hold no large blocks.
    options = ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(library.mallopt(option, value) == 1 for option, value in options)


def return_freed_memory() -> None:
    """Give back to the system what is free now, so that a process that waits holds no more than it uses."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
