"""Recorded samples beside those of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Context, Part
from policyopt.ops.sequences import last_own
from policyopt.sampling.samplers import Draw, Judge
from policyopt.types import Batch, concatenate


@dataclass(frozen=True)
class RecordedAgainst(Part):
    """Pairs of a task's recorded sample (rank 0) and a finished sample of a model (rank 1), for losses on finished
    samples: the last step of both counts as trained and no other."""

    model: str = "reference"
    temperature: float = 1.0

    data = "rows"
    writes = ("pair", "rank")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        theirs = ctx.extend(ctx.world.start(tasks), self.model, self.temperature)
        theirs = theirs.with_steps({"train": last_own(theirs)})
        rows = concatenate([ctx.world.recorded(tasks), theirs])
        number = torch.arange(len(tasks), device=rows.device)
        rank = torch.zeros_like(number)
        return judge(rows.with_rows({"pair": number.repeat(2), "rank": torch.cat([rank, rank + 1])}))
