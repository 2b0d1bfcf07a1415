"""Settings of the C library's allocator for workers."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Option numbers from glibc's malloc.h."""
KEPT_BYTES = 128 * 1024 * 1024
LARGE_BYTES = 8 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Keep freed memory in the process for the next batch. Return whether the allocator supports that; only glibc's does.

    By default freed memory returns to the kernel at once and comes back as zeroed pages, which makes copying records of a
    kilobyte several times as expensive. The process keeps at most its own peak of used memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))


__all__ = ["keep_freed_memory"]
