"""Every turn as a row of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.pieces import pieces
from policyopt.types import Batch


@dataclass(frozen=True)
class TurnsAsRows(Part):
    """A row per turn: the same steps, of which only the turn's are trained, so that ratios, averages and minibatches of
    rows are those of turns. Turns without a trained step are left out.

    multiple: of the rows a random subset is kept whose number is the largest multiple of it (IterResearch, arXiv
    2511.07327: the number of data-parallel workers). 1: all.
    """

    multiple: int = 1
    column: str = "turn"

    needs = "random numbers of the run"

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise CompositionError(f"rows are kept in multiples of at least 1, not {self.multiple}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        turns = pieces(batch, self.column, batch.trained)
        number = torch.arange(len(turns), device=batch.device)
        rows = batch[turns.row].with_steps({"train": turns.of[turns.row] == number[:, None]})
        left = len(rows) % self.multiple
        if not left:
            return rows
        order = torch.randperm(len(rows), generator=ctx.rng("kept turns")).to(batch.device)
        return rows[order[left:].sort().values]
