"""Advantages divided by a Beta density that follows the success rates of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count, group_mean
from policyopt.ops.masked import Total, alone
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch

LARGEST = 1e6
"""Of 1 / density."""


def fitted(rates: Float[Tensor, " N"], total: Total = alone) -> tuple[Tensor, Tensor]:
    """Exponents of the density by the moments of success rates of all ranks: with a, b of the Beta distribution of the
    same mean and variance, max(1, 1 + a / 3) and max(1, 1 + b / 3). One rate, or all alike: 1 and 1."""
    one = torch.ones((), dtype=rates.dtype, device=rates.device)
    count = total(one * len(rates))
    mean = total(rates.sum()) / count.clamp(min=1)
    spread_ = total(((rates - mean) ** 2).sum()) / (count - 1).clamp(min=1)
    if not bool(spread_ > 1e-8):
        return one, one
    size = mean * (1 - mean) / spread_ - 1
    return torch.maximum(one, 1 + size * mean / 3), torch.maximum(one, 1 + size * (1 - mean) / 3)


def log_density(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """log of the density of Beta(alpha, beta) at p."""
    whole = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    return torch.xlogy(alpha - 1, p) + torch.xlogy(beta - 1, 1 - p) - whole


@dataclass(frozen=True)
class BetaNormalised(Part):
    """BNPO (arXiv 2506.02864): rewards less the group's mean p, divided by the density at p of a Beta distribution
    whose exponents follow the success rates of all groups of the round, which makes advantages small in mean square.

    alpha, beta: fixed exponents; 1 and 1 is the mean-centred advantage, 1.5 and 1.5 is pi / 8 times GRPO's. low, high:
    the range of rewards. rewards: step columns, each normalised apart and averaged (reward decomposition).
    """

    alpha: float | None = None
    beta: float | None = None
    low: float = 0.0
    high: float = 1.0
    rewards: tuple[str, ...] = ("reward",)

    formula = "A_b = (R_b - p) / f(p; alpha, beta), p = mean_g R, alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3)"
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.rewards:
            raise CompositionError(f"need low < high and a reward column, got {self.low}, {self.high}, {self.rewards}")
        if min(self.alpha or 1.0, self.beta or 1.0) < 1:
            raise CompositionError(f"exponents below 1 are refused, got {self.alpha} and {self.beta}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for name in self.rewards if name != "reward")

    def normalised(self, reward: Float[Tensor, " B"], batch: Batch, total: Total = alone) -> Float[Tensor, " B"]:
        ids, scored = batch.row["group"], batch.row["scored"]
        rate = group_mean(reward, ids, scored).clamp(0, 1)
        inverse, number = ids.unique(return_inverse=True)[1], torch.arange(len(ids), device=ids.device)
        first = torch.full_like(number, len(ids)).scatter_reduce(0, inverse[scored], number[scored], "amin")
        found = fitted(rate[first[first < len(ids)]].double(), total)
        alpha, beta = (
            torch.as_tensor(fixed if fixed is not None else free, dtype=torch.float64, device=reward.device)
            for fixed, free in zip((self.alpha, self.beta), found, strict=True)
        )
        usable = scored & (group_count(ids, scored) > 1) & (rate > 0) & (rate < 1)
        density = log_density(torch.where(usable, rate, 0.5).double(), alpha, beta)
        scaled = (reward - rate) * (-density).exp().clamp(max=LARGEST).to(reward)
        return torch.where(usable, scaled, 0.0)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scale = self.high - self.low
        found = [
            self.normalised((total_reward(batch, name) - self.low) / scale, batch, ctx.total) for name in self.rewards
        ]
        return batch.with_steps({"advantage": spread(batch, torch.stack(found).mean(0))})
