"""Tuning of the C library's memory allocator for training."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Options of mallopt, from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Lets the process keep freed memory for the next step; returns whether that is supported.

    glibc returns large blocks to the system at once, so in each step all activations are mapped and
    zeroed again, page by page.  Afterwards the process keeps the memory of its largest step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
