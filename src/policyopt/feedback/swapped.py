"""Preferences turned round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Context, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class Swapped(Part):
    """The chosen row of every pair becomes the rejected one, and the other way round: a model trained on it knows what
    people do not want (arXiv 2503.02832)."""

    formula = "y_w <-> y_l"
    reads = ("pair", "rank")
    writes = ("rank",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        rank = batch.row["rank"]
        return batch.with_rows({"rank": torch.where((rank == 0) | (rank == 1), 1 - rank, rank)})
