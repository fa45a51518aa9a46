"""How the process that trains deals with memory that it has freed."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's <malloc.h>
_MOST = 2**31 - 1


def keep_freed() -> bool:
    """Keep what is freed for the next round, which needs as much again; whether that can be had (glibc alone).

    By default glibc gives every large array back to the system when it is freed and gets it anew, page by page and
    zeroed, a moment later: some percent of an update's time. What the process holds at most stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
