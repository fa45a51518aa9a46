"""Keys and values of rows that share contexts: every context once, and behind it what each row wrote itself.

Axis letters: U contexts, P their longest, S rows of a context at most, R rows, G key heads, Q query heads of each,
W columns written. A row attends to [its context | its own columns] under one softmax; the context's part is one product
of all its rows' queries with its keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compiled.decoding import Kernels
from policyopt.engines.architecture import Architecture, Attention

_FIRST = 16  # columns made at first; they double when they are used up


@dataclass(frozen=True)
class Plan:
    """Which rows stand beside which context in this step; None: S neighbouring rows for every context."""

    contexts: int
    seats: int
    rows: Int[Tensor, " U*S"] | None  # the row on every seat; an empty seat repeats some row
    seat: Int[Tensor, " R"] | None  # the seat of every row


class SharedCache:
    """start: the column where each row began; columns before it are another row's remains. length: tokens of every
    context. of: each row's context."""

    def __init__(self, made: Architecture, device: torch.device):
        self.made, self.device = made, device
        self.length = torch.zeros(0, dtype=torch.int64, device=device)
        self.of = self.length.clone()
        self.start = self.length.clone()
        self.used = self.low = 0
        self.prefix: list[tuple[Tensor, Tensor]] = []
        dtype = made.dtype if made.kernels is None else made.kernels.low
        self.own = torch.zeros(len(made.blocks), 2, 0, made.groups, _FIRST, made.dim, dtype=dtype, device=device)
        self.position = self.length
        self.plan = Plan(0, 0, None, None)
        self._hidden: dict[int | None, Tensor | None] = {}

    @property
    def rows(self) -> int:
        return len(self.of)

    # -- rows and contexts come and go ---------------------------------------------------------------------------------
    def enter(self, keys: list[tuple[Tensor, Tensor]], length: Tensor, of: Tensor) -> None:
        """Contexts with keys and values (U, G, P, dim) by layer, and rows that begin behind them."""
        width = max([pair[0].shape[2] for pair in (keys[0], *self.prefix[:1])])
        old = self.prefix or [(k[:0], v[:0]) for k, v in keys]
        keys = [(k.to(self.own.dtype), v.to(self.own.dtype)) for k, v in keys]
        self.prefix = [
            (_stacked(a[0], b[0], width), _stacked(a[1], b[1], width)) for a, b in zip(old, keys, strict=True)
        ]
        self.of = torch.cat([self.of, of + len(self.length)])
        self.length = torch.cat([self.length, length])
        self.start = torch.cat([self.start, torch.full_like(of, self.used)])
        missing = self.rows - self.own.shape[2]
        if missing > 0:
            shape = (*self.own.shape[:2], missing, *self.own.shape[3:])
            self.own = (
                torch.cat([self.own, self.own.new_zeros(shape)], 2)
                if self.used
                else self.own.new_zeros(*self.own.shape[:2], self.rows, *self.own.shape[3:])
            )
        self._arrange()

    def keep(self, kept: Int[Tensor, " K"]) -> None:
        """Row n is from now on what row kept[n] was. Rows that stay in their place are not touched."""
        moved = (kept != torch.arange(len(kept), device=self.device)).nonzero()[:, 0]
        if len(moved):
            part = self.own[:, :, :, :, self.low : self.used]
            part[:, :, moved] = part[:, :, kept[moved]]
        self.of, self.start = self.of[kept], self.start[kept]
        alive = torch.zeros_like(self.length, dtype=torch.bool)
        alive[self.of] = True
        living = alive.nonzero()[:, 0]
        if 4 * len(living) <= 3 * len(alive):
            self.prefix = [(k[living], v[living]) for k, v in self.prefix]
            self.length = self.length[living]
            self.of = (alive.cumsum(0) - 1)[self.of]
        self._arrange()

    def _arrange(self) -> None:
        self.low = int(self.start.min()) if self.rows else self.used
        if self.made.kernels is not None:
            return  # a kernel goes from row to row
        count = torch.bincount(self.of, minlength=len(self.length))
        contexts, seats = len(count), int(count.max()) if len(count) else 0
        regular = torch.arange(contexts * seats, device=self.device)
        if contexts * seats == self.rows and bool((self.of == regular // max(seats, 1)).all()):
            self.plan = Plan(contexts, seats, None, None)
            return
        order = self.of.argsort(stable=True)
        first = count.cumsum(0) - count
        seat = torch.empty_like(order)
        seat[order] = self.of[order] * seats + torch.arange(self.rows, device=self.device) - first[self.of[order]]
        rows = torch.zeros_like(regular)
        rows[seat] = torch.arange(self.rows, device=self.device)
        self.plan = Plan(contexts, seats, rows, seat)

    # -- one step ------------------------------------------------------------------------------------------------------
    def advance(self) -> Int[Tensor, " R"]:
        """Room for one more token per row; returns its position."""
        if self.used == self.own.shape[4]:
            self._widen()
        position = self.length[self.of] + (self.used - self.start)
        self.used += 1
        self.position = position
        if self.made.kernels is not None:
            return position
        self._hidden = {None: self._masked(None, position)}
        for block in self.made.blocks:
            window = block.attention.window
            if window not in self._hidden:
                self._hidden[window] = self._masked(window, position)
        return position

    def _widen(self) -> None:
        """More columns; those that no row needs any more are left behind."""
        kept = self.own[:, :, : self.rows, :, self.low :]
        columns = max(2 * kept.shape[4], _FIRST)
        wider = self.own.new_zeros(*self.own.shape[:4], columns, self.made.dim)
        wider[:, :, : self.rows, :, : kept.shape[4]] = kept
        self.own = wider
        self.used, self.start = self.used - self.low, self.start - self.low
        self.low = 0

    def _masked(self, window: int | None, position: Tensor) -> Bool[Tensor, "R P+W"] | None:
        """What rows must not see of [context | own columns]; None if they see all of it."""
        length = self.length[self.of]
        width = self.prefix[0][0].shape[2]
        reached = window is not None and int(position.max()) >= window
        if not reached and int(self.length.min()) == width and int(self.start.max()) == self.low:
            return None
        before = torch.arange(width, device=self.device)
        own = torch.arange(self.low, self.used, device=self.device) - self.start[:, None]  # columns since the row began
        hidden = torch.cat([before >= length[:, None], own < 0], 1)
        if window is not None and reached:
            at = torch.cat([before.expand(self.rows, -1), length[:, None] + own], 1)
            hidden |= position[:, None] - at >= window
        return hidden

    def attend_compiled(
        self, layer: int, how: Attention, heads: Float[Tensor, "R G Q+2 D"], able: Kernels
    ) -> Float[Tensor, "R G*Q*D"]:
        """The same by a kernel, of queries, keys and values that are not yet rotated."""
        rows = (self.position, self.of, self.start, self.length)
        caches = (self.own[layer, 0], self.own[layer, 1], *self.prefix[layer])
        bounds = (how.window or 0, how.cap or 0.0)
        return able.attend(heads, self.made.tables[how.table], rows, caches, (self.low, self.used), bounds)

    def attend(
        self, layer: int, how: Attention, query: Float[Tensor, "R G Q D"], key: Tensor, value: Tensor
    ) -> Float[Tensor, "R G*Q*D"]:
        """Of one more token per row, whose keys and values (R, G, D) are written at its column."""
        rows, groups, repeats, dim = query.shape
        keys, values = self.own[layer, 0, :rows], self.own[layer, 1, :rows]
        keys[:, :, self.used - 1], values[:, :, self.used - 1] = key, value
        keys = keys.view(rows * groups, -1, dim)[:, self.low : self.used]
        values = values.view(rows * groups, -1, dim)[:, self.low : self.used]
        own = torch.bmm(query.view(rows * groups, repeats, dim), keys.transpose(1, 2))
        shared_keys, shared_values = self.prefix[layer]
        shared = torch.bmm(self._seated(query), shared_keys.flatten(0, 1).transpose(1, 2))
        shared = self._unseated(shared, repeats)
        score = torch.cat([shared, own.view(rows, groups, repeats, -1)], -1)
        if how.cap is not None:
            score = how.cap * torch.tanh(score / how.cap)
        hidden = self._hidden[how.window]
        if hidden is not None:
            score.masked_fill_(hidden[:, None, None], -math.inf)
        weight = score.softmax(-1)
        width = shared_keys.shape[2]
        out = torch.bmm(self._seated(weight[..., :width]), shared_values.flatten(0, 1))
        out = self._unseated(out, repeats).reshape(rows * groups, repeats, dim)
        weight = weight.view(rows * groups, repeats, -1)[..., width:]
        return torch.baddbmm(out, weight, values).view(rows, groups * repeats * dim)

    def _seated(self, x: Float[Tensor, "R G Q N"]) -> Float[Tensor, "U*G S*Q N"]:
        """Rows beside their contexts."""
        plan = self.plan
        x = x if plan.rows is None else x[plan.rows]
        x = x.view(plan.contexts, plan.seats, *x.shape[1:]).transpose(1, 2)
        return x.reshape(plan.contexts * x.shape[1], -1, x.shape[-1])

    def _unseated(self, x: Float[Tensor, "U*G S*Q N"], repeats: int) -> Float[Tensor, "R G Q N"]:
        plan = self.plan
        x = x.view(plan.contexts, -1, plan.seats, repeats, x.shape[-1]).transpose(1, 2).flatten(0, 1)
        return x if plan.seat is None else x[plan.seat]


def _stacked(old: Tensor, new: Tensor, width: int) -> Tensor:
    """(U, G, P, dim) of both, padded with zeros to one width: what is hidden must still be a number."""
    if len(old) == 0 and new.shape[2] == width:
        return new
    both = new.new_zeros(len(old) + len(new), new.shape[1], width, new.shape[3])
    both[: len(old), :, : old.shape[2]] = old
    both[len(old) :, :, : new.shape[2]] = new
    return both
