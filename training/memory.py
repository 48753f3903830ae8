"""What the C library does with the memory that a training step frees."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Of mallopt, as glibc's malloc.h numbers them."""


def keep_freed_memory() -> bool:
    """Lets the process keep freed memory for the next step; whether the C library can do that.

    glibc gives blocks of megabytes back to the system at once, so each step has every activation
    mapped and zeroed anew, page by page.  Kept, the memory of the largest step is held to the end.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
