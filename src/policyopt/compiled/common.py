"""What every library of kernels has; see `common.h`."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

INTEGER, REAL, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Common:
    """dtype: of states. low: of what linear layers read and write."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, low: torch.dtype):
        self.dtype, self.low = dtype, low
        self._norm = declared(library.add_norm, *[POINTER] * 7, INTEGER, INTEGER, REAL, INTEGER)
        self._silu = declared(library.gated_silu, *[POINTER] * 3, *[INTEGER] * 4)


def declared(function: Any, *arguments: Any) -> Any:
    """A function of a library that takes these and returns nothing."""
    function.argtypes, function.restype = arguments, None
    return function
