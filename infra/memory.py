"""How the C library's allocator treats memory that a worker frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the options, from glibc's malloc.h."""
KEPT_BYTES = 128 * 1024 * 1024
LARGE_BYTES = 8 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Keep what a batch frees for the next batch. Whether the allocator can do that; only glibc's can.

    By default freed memory goes back to the kernel at once and comes again as cleared pages, which makes records of a
    kilobyte several times dearer to copy. What is kept is never more than what was used at the same time before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))


__all__ = ["keep_freed_memory"]
