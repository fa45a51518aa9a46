"""Pieces of rows: turns of an episode, segments of a tree, scales of an image. A piece is the own steps of a row that
share an id; statistics of pieces are those of `ops.groups` over numbers (n,), one per piece."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.ops.masked import select
from policyopt.ops.sequences import to_go
from policyopt.types import Batch


@dataclass(frozen=True)
class Pieces:
    """of (B, T): the number of the piece of every own step, -1 elsewhere. row, first, last (n,): the row of each piece
    and the places of its first and last step; place (n,): how many pieces of its row come before it. Pieces are
    numbered in order of rows, then of time."""

    of: Int[Tensor, "B T"]
    row: Int[Tensor, " n"]
    first: Int[Tensor, " n"]
    last: Int[Tensor, " n"]
    place: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.row)

    def spread(self, values: Float[Tensor, " n"]) -> Float[Tensor, "B T"]:
        """A number per piece on each of its steps; 0 elsewhere."""
        if not len(self):
            return values.new_zeros(self.of.shape)
        return select(self.of >= 0, values[self.of.clamp(min=0)])

    def total(self, x: Float[Tensor, "B T"]) -> Float[Tensor, " n"]:
        """Sums over the steps of every piece."""
        inside = self.of >= 0
        return x.new_zeros(len(self)).index_add(0, self.of[inside], x[inside])

    def on_last(self, values: Float[Tensor, " n"], like: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """A number per piece on its last step; 0 elsewhere."""
        return torch.zeros_like(like).index_put((self.row, self.last), values.to(like.dtype))

    def to_go(self, values: Float[Tensor, " n"], gamma: float) -> Float[Tensor, " n"]:
        """y_k = x_k + gamma y_(k + 1) over the pieces of a row."""
        if not len(self):
            return values
        grid = values.new_zeros(len(self.of), int(self.place.max()) + 1).index_put((self.row, self.place), values)
        return to_go(grid, gamma)[self.row, self.place]


def pieces(batch: Batch, column: str | None, mask: Bool[Tensor, "B T"] | None = None) -> Pieces:
    """The pieces of every row by a step column of ids; None: every row is one piece. mask: the steps they are made of
    (the own ones)."""
    own = batch.own if mask is None else mask
    row, step = own.nonzero(as_tuple=True)
    ids = torch.zeros_like(row) if column is None else batch.step[column][row, step].long()
    found, inverse = torch.stack([row, ids], 1).unique(dim=0, return_inverse=True)
    count = len(found)
    ends = torch.full((count,), batch.steps, device=row.device), torch.full((count,), -1, device=row.device)
    first = ends[0].scatter_reduce(0, inverse, step, "amin")
    last = ends[1].scatter_reduce(0, inverse, step, "amax")
    order = (found[:, 0] * (batch.steps + 1) + first).argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(count, device=row.device)
    of = torch.full(own.shape, -1, device=row.device).index_put((row, step), number[inverse])
    rows = found[order, 0]
    place = torch.arange(count, device=row.device) - torch.searchsorted(rows, rows)
    return Pieces(of, rows, first[order], last[order], place)


def pair_ids(*columns: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """One id per distinct combination."""
    return torch.stack(columns, 1).unique(dim=0, return_inverse=True)[1]
