"""Rewards from comparisons: how often a row is preferred to others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Context, Part, named_by
from policyopt.ops.comparisons import pairs_within
from policyopt.ops.sequences import on_last
from policyopt.ops.wins import win_rates
from policyopt.seen import comparing, preference, verdict
from policyopt.types import Batch


@dataclass(frozen=True)
class WinRate(Part):
    """A row's reward: the mean probability that it is preferred to the others of its group (self-play, arXiv
    2401.04056), on its last own step; 1/2 where there is no other. Preferences need not follow from scores.

    opponents: compare with rows of the group that the row column `opponent` marks only (`sampling.opponents`).
    level: what is subtracted; 1/2 makes it an advantage whose mean over a group compared with itself is 0.
    judge: a model of the run that says who wins: one that compares rows (`seen.preferred`; 1/2 where it does not
    answer), or a language model that is asked in words (`judged_chance`). None asks the world, `prefer(first, second)
    -> (B,)`.
    """

    opponents: bool = False
    level: float = 0.0
    judge: str | None = None

    needs = "a world that compares rows"
    formula = "R_b = mean_{j in g, j != b} P(o_b > o_j) - level"
    version = 2
    critics = named_by("judge")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("opponent",) if self.opponents else ()

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored = batch.row["scored"]
        others = scored & batch.row["opponent"] if self.opponents else scored
        row, other = pairs_within(batch.row["group"], scored, others).T
        chance = self.chance(ctx, batch, row, other).to(batch.step["reward"])
        rate = win_rates(chance, row, len(batch))
        reward = torch.where(scored, rate - self.level, 0.0)
        ctx.meter.mean("win_rate", rate, scored & ~batch.row["opponent"] if self.opponents else scored)
        return batch.with_steps({"reward": on_last(batch, reward)})

    def chance(self, ctx: Context, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
        """(n,) that each first row is preferred to its second."""
        if self.judge is None or comparing(ctx.models[self.judge]) or not len(first):
            return preference(ctx, self.judge, batch, first, second)
        return judged_chance(ctx, self.judge, batch[first], batch[second])


def judged_chance(ctx: Context, judge: str, first: Batch, second: Batch) -> Tensor:
    """(n,) what a generative judge says in both orders: (q(first | a, b) + 1 - q(first | b, a)) / 2, q of its two
    verdicts (arXiv 2504.04950)."""
    return (verdict(ctx, judge, first, second) + 1 - verdict(ctx, judge, second, first)) / 2
