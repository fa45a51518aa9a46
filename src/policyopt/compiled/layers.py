"""What the layers of a decoder do beside matrix products, on processors, forward and backward: calls without history.

`low` is the type of what linear layers read and write. `policies/fused.py` makes operations with gradients of these.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compiled.build import library, threads
from policyopt.compiled.common import INTEGER, POINTER, REAL, Common, declared


@dataclass(frozen=True)
class Clusters:
    """Sequences of a flat row of tokens, of which each cluster's attend to themselves and to the first of them.

    first: where clusters begin among the sequences, and the end. begin, length: in tokens. context, own: tokens of the
    longest first and of the longest other sequence.
    """

    first: Int[Tensor, " C+1"]
    begin: Int[Tensor, " S"]
    length: Int[Tensor, " S"]
    context: int
    own: int


class _Attention(ctypes.Structure):
    _fields_ = [
        *[(name, INTEGER) for name in ("clusters", "groups", "repeats", "dim", "threads", "room")],
        ("scale", REAL),
        *[(name, POINTER) for name in ("first", "begin", "length", "query", "key", "value", "cosine", "sine")],
        *[(name, POINTER) for name in ("out", "mass", "by_out", "by_query", "by_key", "by_value", "scratch")],
    ]


class Layers(Common):
    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, low: torch.dtype):
        super().__init__(library, dtype, low)
        self._room = library.attention_room
        self._room.argtypes, self._room.restype = [INTEGER] * 3, INTEGER
        self._attention = declared(library.attention, POINTER, INTEGER, INTEGER)
        self._attention_backward = declared(library.attention_backward, POINTER, INTEGER, INTEGER)
        self._norm_backward = declared(library.add_norm_backward, *[POINTER] * 9, *[INTEGER] * 3)
        self._silu_backward = declared(library.gated_silu_backward, *[POINTER] * 5, INTEGER, INTEGER)

    # -- attention -----------------------------------------------------------------------------------------------------
    def attention(
        self, heads: tuple[Tensor, Tensor, Tensor], turns: tuple[Tensor, Tensor], clusters: Clusters, scale: float
    ) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "N H"]]:
        """Rotary positions and causal attention. heads: queries (N, H, D), keys and values (N, G, D), in `low`. turns:
        cosines and sines (N, D). Also the logarithms of the sums of exponentials."""
        out, mass = torch.empty_like(heads[0]), torch.empty(heads[0].shape[:2], dtype=self.dtype)
        self._attend(self._attention, (*heads, *turns, out, mass), clusters, scale)
        return out, mass

    def attention_backward(
        self,
        heads: tuple[Tensor, Tensor, Tensor],
        turns: tuple[Tensor, Tensor],
        found: tuple[Tensor, Tensor],
        by_out: Float[Tensor, "N H D"],
        clusters: Clusters,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient for queries, keys and values; found: what the forward pass gave."""
        slopes = [torch.empty_like(head) for head in heads]
        self._attend(self._attention_backward, (*heads, *turns, *found, by_out, *slopes), clusters, scale)
        return slopes[0], slopes[1], slopes[2]

    def _attend(self, call: Any, tensors: tuple[Tensor, ...], clusters: Clusters, scale: float) -> None:
        (_, heads, dim), groups = tensors[0].shape, tensors[1].shape[1]
        count = len(clusters.first) - 1
        shared = min(torch.get_num_threads(), count * groups)
        room = self._room(clusters.context, clusters.own, dim)
        scratch = torch.empty(shared * room + 64, dtype=torch.uint8)
        aligned = scratch.data_ptr() + -scratch.data_ptr() % 64
        places = [tensor.data_ptr() for tensor in (clusters.first, clusters.begin, clusters.length, *tensors)]
        missing = [None] * (14 - len(places))
        told = _Attention(count, groups, heads // groups, dim, shared, room, scale, *places, *missing, aligned)
        call(ctypes.byref(told), clusters.context, clusters.own)

    # -- norms ---------------------------------------------------------------------------------------------------------
    def norm(
        self, x: Float[Tensor, "N D"], added: Tensor | None, weight: Float[Tensor, " D"], epsilon: float, *, high: bool
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Float[Tensor, " N"]]:
        """The sum x + added (added: in `low`, or None), the norm of it, sum / sqrt(mean sum^2 + epsilon) * weight (in
        `dtype` if `high`, else in `low`), and 1 / the roots."""
        rows, size = x.shape
        total = x if added is None else torch.empty_like(x)
        out, inverse = torch.empty(x.shape, dtype=self.dtype if high else self.low), x.new_empty(rows)
        places = (None, out.data_ptr()) if high else (out.data_ptr(), None)
        given = (x.data_ptr(), _place(added), weight.data_ptr(), total.data_ptr(), inverse.data_ptr())
        self._norm(*given, *places, rows, size, epsilon, threads(rows))
        return total, out, inverse

    def norm_backward(
        self,
        found: tuple[Tensor, Tensor],
        weight: Float[Tensor, " D"],
        by_norm: Float[Tensor, "N D"],
        by_sum: Float[Tensor, "N D"] | None,
        *,
        added: bool,
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"] | None, Float[Tensor, " D"]]:
        """The gradient for x, for what was added (if anything was) and for the weight; found: sum and 1 / roots."""
        total, inverse = found
        rows, size = total.shape
        by_x, by_added = torch.empty_like(total), torch.empty(total.shape, dtype=self.low) if added else None
        high = by_norm.dtype != self.low
        places = (None, by_norm.data_ptr()) if high else (by_norm.data_ptr(), None)
        parts = weight.new_zeros(threads(rows), size)
        given = (total.data_ptr(), inverse.data_ptr(), weight.data_ptr(), *places, _place(by_sum))
        made = (by_x.data_ptr(), _place(by_added), parts.data_ptr())
        self._norm_backward(*given, *made, rows, size, len(parts))
        return by_x, by_added, parts.sum(0)

    # -- activation ----------------------------------------------------------------------------------------------------
    def gated_silu(self, gate: Float[Tensor, "N F"], other: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """silu(gate) * other, all of them in `low`."""
        out = torch.empty_like(gate)
        (rows, size), places = gate.shape, (gate.data_ptr(), other.data_ptr(), out.data_ptr())
        self._silu(*places, rows, size, size, threads(rows))
        return out

    def gated_silu_backward(self, gate: Tensor, other: Tensor, by_out: Tensor) -> tuple[Tensor, Tensor]:
        slopes = torch.empty_like(gate), torch.empty_like(other)
        places = [tensor.data_ptr() for tensor in (gate, other, by_out, *slopes)]
        self._silu_backward(*places, gate.numel(), threads(len(gate)))
        return slopes


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def layers(dtype: torch.dtype, low: torch.dtype) -> Layers | None:
    """None: no compiler, no kernels for these types, or a processor without their instructions."""
    found = library("layers", dtype, low)
    return None if found is None or not found.panel() else Layers(found, dtype, low)
