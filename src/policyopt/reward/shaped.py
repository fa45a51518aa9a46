"""Rewards passed through a function of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last, total_reward
from policyopt.types import Batch, Source


@dataclass(frozen=True)
class AsymmetricShaping(Part):
    """TempSamp-R1's shaping (arXiv 2509.18056) of a row's reward, 0..1: compressed above `threshold`, spread out
    exponentially below it, so that one very good row does not make all others look alike."""

    threshold: float = 0.8
    alpha: float = 1.0
    slope: float = 0.01

    formula = (
        "thr + slope log(R - thr + 1) for R >= thr, thr - (exp(alpha (thr - R)) - 1) / (exp(alpha) - 1) for R < thr"
    )

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.slope <= 0:
            raise CompositionError(f"alpha and slope must be above 0, got {self.alpha} and {self.slope}")

    def shaped(self, reward: Tensor) -> Tensor:
        below = (self.threshold - reward).clamp(min=0)
        low = self.threshold - torch.expm1(self.alpha * below) / math.expm1(self.alpha)
        high = self.threshold + self.slope * torch.log1p((reward - self.threshold).clamp(min=0))
        return torch.where(reward < self.threshold, low, high)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward = total_reward(batch)
        change = torch.where(batch.row["scored"], self.shaped(reward) - reward, 0.0)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, change)})


@dataclass(frozen=True)
class CappedGiven(Part):
    """Rewards of rows that the policy did not write are at most `cap` (a variant of TempSamp-R1, arXiv 2509.18056)."""

    cap: float = 0.8

    formula = "R_b <- min(R_b, cap) for rows of other origin"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward = total_reward(batch)
        over = (batch.row["source"] != Source.POLICY) & batch.row["scored"]
        change = torch.where(over, reward.clamp(max=self.cap) - reward, 0.0)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, change)})
