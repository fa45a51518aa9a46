"""Rows that begin inside recorded ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.seen import rewinding
from policyopt.types import Batch, Source, StepKind


@dataclass(frozen=True)
class ResetGroup(Part):
    """`size` attempts of every task, each of which, with probability `share`, begins with the first steps of the task's
    recorded row: of n steps any 1 .. n - 1 are equally likely (dataset reset, arXiv 2404.08495). They are hints, which
    the policy attends to and is not trained on; a recorded row of one step is not used. share = 0: `Group`.
    """

    share: float = 1.0
    size: int = 1
    temperature: float = 1.0

    data = "rows"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if not 0 <= self.share <= 1:
            raise CompositionError(f"the share of rows that are reset is in 0..1, not {self.share}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks, rng = draw().repeat(self.size), ctx.rng("resets")
        chance = torch.rand(2, len(tasks), generator=rng, dtype=torch.float64).to(tasks.id.device)
        rows = ctx.world.start(tasks)
        if self.share > 0:
            shown: Batch = ctx.world.recorded(tasks)
            length = shown.valid.sum(1)
            kept = 1 + (chance[1] * (length - 1)).long()
            reset = (chance[0] < self.share) & (length > 1)
            rows = rewinding(ctx.world)(shown, torch.where(reset, kept, 0))
            hint = torch.where(rows.valid, int(StepKind.HINT), rows.step["kind"]).to(rows.step["kind"].dtype)
            rows = rows.with_steps({"kind": hint, "train": torch.zeros_like(rows.step["train"])})
            rows = rows.with_rows({"source": torch.full_like(rows.row["source"], int(Source.POLICY))})
            ctx.meter.mean("reset", reset.double(), torch.ones_like(reset))
        return judge(ctx.extend(rows, temperature=self.temperature))
