"""Advantages that a part of a group shares: rows that were told the same, or whose group was chosen by outcome."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_mean
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class AgainstPar(Part):
    """Adds to the advantages how far the rows of a group that share the column `by` are, on average, from their `par`
    (row columns): HBPO's term of a budget (arXiv 2507.15844, section 3.3), not normalised. weight 2 is as released."""

    by: str = "budget"
    weight: float = 1.0

    formula = "A_b += w (mean of R over rows of g with b's budget - par_b)"
    writes = ("advantage",)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("advantage", "par", self.by)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored = total_reward(batch), batch.row["scored"]
        mean = group_mean(reward, batch.ids("group", self.by), scored)
        level = torch.where(scored, mean - batch.row["par"].to(mean.dtype), 0.0)
        return batch.with_steps({"advantage": batch.step["advantage"] + spread(batch, self.weight * level)})


@dataclass(frozen=True)
class AgainstRate(Part):
    """A = R - p of the mean reward p over *all* rows that were drawn for the task (row columns `rate` and `drawn`),
    of which the group is a choice (Reinforce-Ada, arXiv 2510.04996). scaled: over sqrt(p (1 - p) N / (N - 1))."""

    scaled: bool = False
    epsilon: float = 1e-6

    formula = "A_b = R_b - p (scaled: / (sqrt(p (1 - p) N / (N - 1)) + epsilon)), p, N over all rows drawn"
    reads = ("rate", "drawn")
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise CompositionError(f"epsilon must not be negative, got {self.epsilon}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, rate = total_reward(batch), batch.row["rate"].to(batch.step["reward"].dtype)
        advantage = reward - rate
        if self.scaled:
            drawn = batch.row["drawn"].to(rate.dtype)
            variance = (rate * (1 - rate)).clamp(min=0) * drawn / (drawn - 1).clamp(min=1)
            advantage = torch.where(variance > 0, advantage / (variance.sqrt() + self.epsilon), 0.0)
        return batch.with_steps({"advantage": spread(batch, torch.where(batch.row["scored"], advantage, 0.0))})


@dataclass(frozen=True)
class Accepted(Part):
    """A = 1 for rows whose reward exceeds `right`, 0 for others: rejection sampling as an advantage (RAFT)."""

    right: float = 0.5

    formula = "A_b = 1[R_b > right]"
    writes = ("advantage",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        good = batch.row["scored"] & (total_reward(batch) > self.right)
        return batch.with_steps({"advantage": spread(batch, good.to(batch.step["reward"].dtype))})
