"""Preference pairs as ids: row columns `pair` (one id per pair) and `rank` (0 preferred, 1 other, -1 neither)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
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


def list_rows(batch: Batch) -> Int[Tensor, "lists K"]:
    """Row numbers of every ranked list (rows that share a pair id), the best first, -1 behind a shorter list's end.
    Rows of rank -1 or without a trained step are in no list; lists of fewer than two rows are left out."""
    pair, rank = batch.row["pair"], batch.row["rank"]
    rows = ((rank >= 0) & batch.trained.any(1)).nonzero()[:, 0]
    rows = rows[rank[rows].argsort(stable=True)]
    rows = rows[pair[rows].argsort(stable=True)]
    _, inverse, count = pair[rows].unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[inverse]
    table = rows.new_full((len(count), int(count.max()) if len(count) else 0), -1)
    table[inverse, place] = rows
    return table[count > 1]


def list_tops(batch: Batch) -> Bool[Tensor, " B"]:
    """The best row of every list, on which the values of lists sit."""
    top = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    rows = list_rows(batch)
    top[rows[:, :1].flatten()] = True
    return top
