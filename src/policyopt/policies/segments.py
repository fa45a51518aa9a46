"""Rows of tokens as one row without padding: linear layers read real tokens only, attention keeps sequences apart.

A context that several rows share is read once; its continuations attend to its keys and to their own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from policyopt.compiled.layers import Clusters
from policyopt.policies.packing import Packed

SHARED = 1 / 16  # contexts are shared where that saves more than this part of all tokens
SHORTER = 0.75  # a sequence shorter than this part of its segment's longest begins another segment ...
TOKENS = 1024  # ... once there are so many tokens in this one
MASK = 2**22  # numbers in the mask of one segment, at most


@dataclass(frozen=True)
class Segment:
    """R sequences, padded on the right to width W, that attend to themselves and, if it has a mask, to a context each.

    start, stop: their tokens in the flat row. place: where each token stands among the R * W places. token: what stands
    at each place (at padding, any token). blank: the places of padding. context: of each sequence, by number.
    mask: (R or 1, 1, W, P + W), what is added to the scores of keys of the context (padded to P) and of its own.
    """

    start: int
    stop: int
    rows: int
    width: int
    place: Int[Tensor, " n"]
    token: Int[Tensor, " RW"]
    blank: Int[Tensor, " p"]
    context: Int[Tensor, " R"] | None = None
    mask: Float[Tensor, "R 1 W PW"] | None = None

    def padded(self, x: Float[Tensor, "N H D"]) -> Float[Tensor, "R W H D"]:
        part = x[self.start : self.stop]
        if len(self.blank):
            part = _Moved.apply(part, self.token, self.place, None, self.blank)
        return part.view(self.rows, self.width, *x.shape[1:])

    def flat(self, x: Float[Tensor, "R W H D"]) -> Float[Tensor, "n H D"]:
        part = x.reshape(self.rows * self.width, *x.shape[2:])
        return _Moved.apply(part, self.place, self.token, self.blank, None) if len(self.blank) else part


class _Moved(torch.autograd.Function):
    """x[to], a one-to-one move but for padding, whose gradient is the move back: a copy, where that of an index would
    be a sum. gone: entries of x that have no place in the result; filled: places of the result that have no entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Tensor, back: Tensor, gone: Tensor | None, filled: Tensor | None) -> Tensor:
        ctx.moves = (back, to, filled, gone)
        moved = x.index_select(0, to)
        return moved if filled is None else moved.index_fill_(0, filled, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Moved.apply(grads[0], *ctx.moves), None, None, None, None


@dataclass(frozen=True)
class Layout:
    """tokens, positions: of the flat row. index: where each token of the packed rows stands in it (0 where none does).
    segments: in its order; those with a context follow the one that holds the contexts. sequences: of each its first
    token in the flat row, its length, and the number of the sequence it follows, its own where it follows none."""

    tokens: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    index: Int[Tensor, "B L"]
    segments: tuple[Segment, ...]
    sequences: Int[Tensor, "3 S"]

    @functools.cached_property
    def clusters(self) -> Clusters:
        """The same for compiled attention."""
        begin, length, context = self.sequences
        order = context.argsort(stable=True)  # a context stands before what follows it
        _, sizes = context.unique(return_counts=True)
        first = F.pad(sizes.cumsum(0), (1, 0))
        begin, length = begin[order], length[order]
        leads = torch.zeros_like(length, dtype=torch.bool).index_fill_(0, first[:-1], True)
        longest = [int(F.pad(length[part], (0, 1)).max()) for part in (leads, ~leads)]
        return Clusters(first, begin, length, *longest)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Float[Tensor, "N H D"]:
        """Causal attention within every sequence and to its context; query (N, H, D), key and value (N, G, D)."""
        shared, found = (), []
        for segment in self.segments:
            q, k, v = segment.padded(query), segment.padded(key), segment.padded(value)
            if segment.context is None:
                shared = (k, v)
            else:
                of_context = (each.index_select(0, segment.context) for each in shared)
                k, v = (torch.cat(both, 1) for both in zip(of_context, (k, v), strict=True))
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                attn_mask=None if segment.mask is None else segment.mask.to(q.dtype),
                is_causal=segment.mask is None,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            found.append(segment.flat(out.transpose(1, 2)))
        return found[0] if len(found) == 1 else torch.cat(found)


def layout_of(packed: Packed, *, tail: bool = False, share: bool = True) -> Layout:
    """tail: the last token of every row is read too. Without it, what is read are the tokens that predict a step.
    share: contexts that several rows share are read once, if that saves much."""
    context = packed.first + 1
    own = (packed.last - packed.first - (0 if tail else 1)).clamp(min=0)
    flat = _Flat(packed)
    if share and len(context) > 1:
        of_row, sample = _distinct(packed.tokens, context)
        saved = int(context.sum() - context[sample].sum())
        if saved > SHARED * int((context + own).sum()):
            flat.add_contexts(sample, context[sample], of_row)
            for rows in _alike(own, int(context.max())):
                flat.add(rows, context[rows], own[rows], of_row[rows])
            return flat.layout()
    for rows in _alike(context + own, 0):
        flat.add(rows, torch.zeros_like(rows), (context + own)[rows])
    return flat.layout()


class _Flat:
    """A layout in the making."""

    def __init__(self, packed: Packed):
        self.source = packed.tokens
        self.index = torch.zeros_like(packed.tokens)
        self.tokens: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.segments: list[Segment] = []
        self.sequences: list[Tensor] = []
        self.used, self.context = 0, packed.first  # lengths of the contexts, once they are known

    def add_contexts(self, rows: Tensor, count: Tensor, of_row: Tensor) -> None:
        """The first `count` tokens of some rows, which stand for those of every row."""
        self.add(rows, torch.zeros_like(rows), count)
        width, self.context = self.segments[0].width, count
        column = torch.arange(width, device=rows.device)
        every = self.index[rows, :width][of_row]
        self.index[:, :width] = torch.where(column < count[of_row, None], every, 0)

    def add(self, rows: Tensor, begin: Tensor, count: Tensor, context: Tensor | None = None) -> None:
        """`count` tokens of each of some rows, from column `begin` on."""
        width = int(count.max())
        column = torch.arange(width, device=rows.device)
        real = column < count[:, None]
        row, offset = real.nonzero(as_tuple=True)
        place = row * width + offset
        at = (rows[row], begin[row] + offset)
        self.index[at] = self.used + torch.arange(len(row), device=rows.device)
        self.tokens.append(self.source[at])
        self.positions.append(at[1])
        self.segments.append(
            Segment(
                self.used,
                self.used + len(row),
                len(rows),
                width,
                place,
                (real.flatten().cumsum(0) - 1).clamp(min=0),
                (~real).flatten().nonzero()[:, 0],
                context,
                None if context is None else self._mask(width, self.context[context]),
            )
        )
        begin = self.used + count.cumsum(0) - count
        number = sum(sequences.shape[1] for sequences in self.sequences) + torch.arange(len(rows), device=rows.device)
        self.sequences.append(torch.stack([begin, count, number if context is None else context]))
        self.used += len(row)

    def _mask(self, width: int, context: Tensor) -> Tensor:
        """Of sequences of `width` tokens that continue contexts of these lengths."""
        before = self.segments[0].width
        column = torch.arange(before + width, device=context.device)
        lengths = context[:1] if bool((context == context[0]).all()) else context
        causal = column[None] - before <= column[:width, None]
        seen = torch.where(column < before, column < lengths[:, None, None], causal[None])
        return torch.zeros(seen.shape, device=context.device).masked_fill(~seen, float("-inf"))[:, None]

    def layout(self) -> Layout:
        if not self.tokens:  # no row has anything to read
            nothing = self.index.new_zeros(0)
            return Layout(nothing, nothing, self.index, (), nothing.view(3, 0))
        flat = (torch.cat(self.tokens), torch.cat(self.positions))
        return Layout(*flat, self.index, tuple(self.segments), torch.cat(self.sequences, 1))


def _distinct(tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the number of each row's context among the distinct ones, (U,) a row of each."""
    width = int(context.max())
    real = torch.arange(width, device=tokens.device) < context[:, None]
    # The length takes part in the comparison: token 0 may also be a real one.
    keys = torch.cat([context[:, None], tokens[:, :width].masked_fill(~real, 0)], 1)
    distinct, of_row = keys.unique(dim=0, return_inverse=True)
    number = torch.arange(len(of_row), device=of_row.device)
    return of_row, number.new_full((len(distinct),), len(of_row)).scatter_reduce(0, of_row, number, "amin")


def _alike(count: Tensor, context: int) -> list[Tensor]:
    """Rows that have any tokens, in sets of about the same number of them, the longest first. context: the width of
    what every one of them follows."""
    found: list[list[int]] = []
    longest = tokens = 0
    lengths = count.tolist()
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] == 0:
            break
        masked = (len(found[-1]) + 1) * longest * (context + longest) if found and context else 0
        if not found or masked > MASK or (tokens >= TOKENS and lengths[row] < SHORTER * longest):
            found.append([])
            longest, tokens = lengths[row], 0
        found[-1].append(row)
        tokens += lengths[row]
    return [torch.tensor(rows, device=count.device) for rows in found]
