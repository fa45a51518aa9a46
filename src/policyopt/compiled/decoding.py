"""Compiled parts of a decoding step on processors: one call where torch takes a dozen small operations."""

from __future__ import annotations

import ctypes
import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compiled.build import library, threads
from policyopt.compiled.common import INTEGER, POINTER, REAL, Common, declared

_PRODUCTS_TO_SHARE = 2**17  # fewer are done by one thread


class _Attend(ctypes.Structure):
    _fields_ = [
        *[(name, INTEGER) for name in ("rows", "groups", "repeats", "dim", "low", "used", "capacity", "width")],
        *[(name, INTEGER) for name in ("window", "threads", "room")],
        ("cap", REAL),
        *[(name, POINTER) for name in ("heads", "table", "position", "of", "start", "length")],
        *[(name, POINTER) for name in ("own_key", "own_value", "shared_key", "shared_value", "out", "scratch")],
    ]


class Kernels(Common):
    """low: of the cache as well."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, low: torch.dtype):
        super().__init__(library, dtype, low)
        self._attend = declared(library.attend, POINTER)
        self._choose = declared(library.choose, *[POINTER] * 5, *[INTEGER] * 3)
        self._linear = declared(library.linear, *[POINTER] * 3, INTEGER, POINTER, POINTER, *[INTEGER] * 4)
        self._panel, self._pair = int(library.panel()), int(library.pair())
        self._scratch = torch.empty(0, dtype=dtype)

    def packed(self, weight: Float[Tensor, "O I"]) -> Tensor | None:
        """A weight as `linear` reads it; None if it can not."""
        outputs, inputs = weight.shape
        if self._panel == 0 or weight.dtype != self.low or outputs % self._panel or inputs % self._pair:
            return None
        parts = weight.detach().view(outputs // self._panel, self._panel, inputs // self._pair, self._pair)
        return parts.transpose(1, 2).contiguous()

    def linear(
        self, x: Float[Tensor, "N I"], packed: Tensor, base: Tensor | None = None, *, high: bool = False
    ) -> Float[Tensor, "N O"]:
        """x weight^T + base (a bias, or a tensor of the result's shape) in `low`, or in `dtype` if `high`."""
        x = x.to(self.low).contiguous()
        rows, inputs, outputs = len(x), x.shape[1], packed.shape[0] * packed.shape[2]
        high = high or self.low == self.dtype
        out = torch.empty(rows, outputs, dtype=self.dtype if high else self.low)
        row = outputs if base is not None and base.dim() == 2 else 0
        places = (out.data_ptr(), None) if high else (None, out.data_ptr())
        given = None if base is None else base.data_ptr()
        # Panels, not rows, are shared by threads.
        shared = torch.get_num_threads() if rows * outputs * inputs > _PRODUCTS_TO_SHARE else 1
        self._linear(x.data_ptr(), packed.data_ptr(), given, row, *places, rows, inputs, outputs, shared)
        return out

    def rms_norm(self, x: Float[Tensor, "N D"], weight: Float[Tensor, " D"], epsilon: float) -> Float[Tensor, "N D"]:
        """x / sqrt(mean x^2 + epsilon) * weight, in `low`."""
        x = x.contiguous()
        out = torch.empty(x.shape, dtype=self.low)
        rows, size = x.shape
        places = (x.data_ptr(), None, weight.data_ptr(), None, None, out.data_ptr(), None)
        self._norm(*places, rows, size, epsilon, threads(rows))
        return out

    def gated_silu(self, wide: Float[Tensor, "N 2*F"]) -> Float[Tensor, "N F"]:
        """silu(first half) * second half."""
        wide = wide.to(self.low).contiguous()
        rows, size = len(wide), wide.shape[1] // 2
        out = torch.empty(rows, size, dtype=self.low)
        halves = (wide.data_ptr(), wide.data_ptr() + size * wide.element_size())
        self._silu(*halves, out.data_ptr(), rows, size, 2 * size, threads(rows))
        return out

    def choose(
        self, logits: Float[Tensor, "R V"], heat: Float[Tensor, " R"], uniform: Float[Tensor, " R"]
    ) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
        """Tokens from softmax(logits / heat) and their log-probabilities; logits are overwritten."""
        rows, size = logits.shape
        token, logp = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.float64)
        columns = (logits, heat, uniform, token, logp)
        self._choose(*(column.data_ptr() for column in columns), rows, size, threads(rows))
        return token, logp

    def attend(
        self,
        heads: Float[Tensor, "R G Q+2 D"],
        table: Tensor,
        rows: tuple[Tensor, Tensor, Tensor, Tensor],
        caches: tuple[Tensor, Tensor, Tensor, Tensor],
        columns: tuple[int, int],
        bounds: tuple[int, float],
    ) -> Float[Tensor, "R G*Q*D"]:
        """Rotary positions, writing of the new keys and values, and attention, of one more token per row.

        table: complex (positions, D / 2). rows: position, context and first own column of every row; length of every
        context. caches: own keys and values (rows, G, columns, D), contexts' keys and values (U, G, P, D). columns: the
        first and one behind the last that exist. bounds: window and cap, 0 for none.
        """
        count, groups, both, dim = heads.shape
        heads = heads.to(self.low).contiguous()
        out = torch.empty(count, groups * (both - 2) * dim, dtype=self.low)
        shared = threads(count)
        width, (low, used) = caches[2].shape[2], columns
        room = 2 * dim + width + used - low
        if self._scratch.numel() < shared * room:
            self._scratch = torch.empty(2 * shared * room, dtype=self.dtype)
        tensors = (heads, table, *rows, *caches, out, self._scratch)
        sizes = (count, groups, both - 2, dim, low, used, caches[0].shape[2], width)
        call = _Attend(*sizes, bounds[0], shared, room, bounds[1], *(tensor.data_ptr() for tensor in tensors))
        self._attend(ctypes.byref(call))
        return out


@functools.cache
def kernels(dtype: torch.dtype, low: torch.dtype) -> Kernels | None:
    """None: no compiler, or no kernels for these types."""
    found = library("decoding", dtype, low)
    return None if found is None else Kernels(found, dtype, low)
