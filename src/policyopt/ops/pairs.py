"""Preference pairs as ids: row columns `pair` (one id per pair) and `rank` (0 preferred, 1 other, -1 neither)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.types import Batch


def pair_rows(batch: Batch) -> Int[Tensor, "pairs 2"]:
    """Row numbers of the chosen and the rejected side of every pair, in order of pair id."""
    pair, rank = batch.row["pair"], batch.row["rank"]
    sides = []
    for side in (0, 1):
        rows = (rank == side).nonzero()[:, 0]
        sides.append(rows[pair[rows].argsort(stable=True)])
    chosen, rejected = sides
    if len(chosen) != len(rejected) or not torch.equal(pair[chosen], pair[rejected]):
        raise ValueError("every pair needs exactly one row of rank 0 and one of rank 1; couple terms by 'pair'")
    return torch.stack([chosen, rejected], 1)


def at_rows(value: Float[Tensor, " M"], rows: Int[Tensor, " M"], size: int) -> Float[Tensor, " B"]:
    """Values of pairs or lists sit on an anchor row, so that they slice like any row column."""
    return value.new_zeros(size).index_copy(0, rows, value)
