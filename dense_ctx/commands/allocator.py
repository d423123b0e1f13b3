"""The C library's memory in a process of ours."""

from __future__ import annotations

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD, BYTES = -3, -1, 1 << 30  # glibc's malloc.h; larger blocks go back to the system at once


def reuse_freed_memory() -> bool:
    """Let glibc keep what is freed for the next image: to get it anew took up to two fifths of a prediction's time.

    False, and nothing changes, with another C library, a glibc that stops at 32 MB, or where the environment says more.
    """
    if os.name != "posix" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
    except OSError:  # a static interpreter
        return False
    glibc = hasattr(library, "gnu_get_libc_version")
    return glibc and all(library.mallopt(option, BYTES) == 1 for option in (MMAP_THRESHOLD, TRIM_THRESHOLD))
