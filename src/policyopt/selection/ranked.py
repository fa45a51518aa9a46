"""Rows that are kept, or drawn again, by the rank of their rewards in the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch

Rule = Literal["all", "best", "best_worst", "best_random", "power"]


def rank_weights(
    reward: Float[Tensor, " B"], ids: Int[Tensor, " B"], scored: Bool[Tensor, " B"], rule: Rule
) -> Float[Tensor, " B"]:
    """Weights of rows (PF-PPO, arXiv 2409.06957): 1 for the best, for the best and the worst, 0.4 for the best and 0.1
    for the others, or |R|^2. Among equals the first; unscored rows 0."""
    if rule in ("all", "power"):
        return torch.where(scored, reward**2 if rule == "power" else 1.0, 0.0)
    weight = torch.where(scored, 0.1 if rule == "best_random" else 0.0, torch.zeros_like(reward))
    for one in ids[scored].unique():
        rows = ((ids == one) & scored).nonzero()[:, 0]
        weight[rows[reward[rows].argmax()]] = 0.4 if rule == "best_random" else 1.0
        if rule == "best_worst":
            weight[rows[reward[rows].argmin()]] = 1.0
    return weight


def explained(reward: Float[Tensor, " B"], score: Float[Tensor, " B"], weight: Float[Tensor, " B"]) -> float:
    """The squared weighted correlation of a model's rewards with true scores: R^2 of the weighted least-squares line. A
    filter is chosen by it, on rows whose true scores are known."""
    share = (weight / weight.sum()).double()
    x, y = (column.double() - (share * column).sum() for column in (reward, score))
    return float((share * x * y).sum() ** 2 / ((share * x * x).sum() * (share * y * y).sum()))


@dataclass(frozen=True)
class RankFiltered(Part):
    """Rows by `rank_weights`: drawn with replacement from the whole round in proportion to their weights, as many as
    have one; or, not resampled, the rows with a weight themselves (of "best_random" the best and one other of the
    group, at random)."""

    rule: Rule = "best_random"
    resampled: bool = True

    needs = "random numbers"
    formula = "rows drawn with probability w_b / sum w, w by the rank of R_b in g"

    def __post_init__(self) -> None:
        if self.rule == "power" and not self.resampled:
            raise CompositionError("powers of the reward weigh all rows; draw them again (resampled) by these weights")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        ids, rng = batch.row["group"], ctx.rng("ranked rows")
        weight = rank_weights(total_reward(batch), ids, batch.row["scored"], self.rule)
        count = int((weight > 0).sum())
        if not count:
            return batch[:0]
        if self.resampled:
            return batch[
                torch.multinomial(weight.double().cpu(), count, replacement=True, generator=rng).to(ids.device)
            ]
        keep = weight > 0
        if self.rule == "best_random":
            keep = weight > 0.2
            for one in ids[keep].unique():
                others = ((ids == one) & (weight > 0) & ~keep).nonzero()[:, 0]
                if len(others):
                    keep[others[torch.randint(len(others), (), generator=rng)]] = True
        return batch[keep]
