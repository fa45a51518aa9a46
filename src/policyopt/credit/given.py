"""Advantages of rows that the policy did not write, on the scale of those that it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.groups import GroupStandardised, bounded, check_bound, standardised
from policyopt.ops.comparisons import largest
from policyopt.ops.groups import group_count, group_mean, group_range, group_std
from policyopt.ops.masked import masked_mean, whiten
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch, Source


@dataclass(frozen=True)
class OnOwnScale(Part):
    """GRAO's advantages (arXiv 2508.07750): the policy's own rows are standardised among themselves, rows of a data set
    by the mean and deviation of the own rows of their group; where those are all alike, by the sign of the difference.

    bound: advantages of rows of a data set are clipped to -bound..bound. ddof 1 divides the variance by n - 1.
    """

    epsilon: float = 1e-6
    ddof: int = 0
    bound: float | None = 5.0

    formula = "A_b = (R_b - mean R) / (std R + epsilon) over the own rows of g; sign(R_b - mean R) where std R = 0"
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.ddof not in (0, 1):
            raise CompositionError(f"need epsilon >= 0 and ddof 0 or 1, got {self.epsilon} and {self.ddof}")
        check_bound(self.bound)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, ids, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        own = scored & (batch.row["source"] == Source.POLICY)
        ahead = reward - group_mean(reward, ids, own)
        deviation = group_std(reward, ids, own, self.ddof)
        differ = (group_range(reward, ids, own) > 0) & (deviation > 0)
        scaled = torch.where(differ, ahead / (torch.where(differ, deviation, 1.0) + self.epsilon), ahead.sign())
        given = scored & ~own & (group_count(ids, own) > 0)
        advantage = standardised(reward, ids, own, self.epsilon, self.ddof)
        advantage = torch.where(given, bounded(scaled, self.bound), advantage)
        return batch.with_steps({"advantage": spread(batch, advantage)})


@dataclass(frozen=True)
class OfOwnRows(Part):
    """Any credit, from the rows that the policy wrote alone; rows of other origin get the advantage `given`, or with
    `best` that factor times the largest advantage of an own row of their group."""

    inner: Part = field(default_factory=GroupStandardised)
    given: float = 0.0
    best: float | None = None

    needs = "another credit"

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.inner.formula}, over own rows; A_b = given (or best max_g A) for others"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inner.reads

    @property
    def writes(self) -> tuple[str, ...]:
        return self.inner.writes

    @property
    def critics(self) -> tuple[str, ...]:
        return self.inner.critics

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored, own = batch.row["scored"], batch.row["source"] == Source.POLICY
        inner: Any = self.inner
        done: Batch = inner(ctx, batch.with_rows({"scored": scored & own}))
        worth = torch.full_like(batch.row["group"], self.given, dtype=done.step["advantage"].dtype)
        if self.best is not None:
            top = largest(masked_mean(done.step["advantage"], batch.own), batch.row["group"], scored & own)
            worth = self.best * top
        given = spread(batch, torch.where(scored & ~own, worth, 0.0))
        advantage = torch.where(own[:, None], done.step["advantage"], given)
        return done.with_rows({"scored": scored}).with_steps({"advantage": advantage})


@dataclass(frozen=True)
class WhitenedAdvantage(Part):
    """Advantages less their mean over the standard deviation, both over all scored own steps of the round (REINFORCE++,
    arXiv 2501.03262)."""

    epsilon: float = 1e-8

    formula = "A_bt <- (A_bt - mean A) / (std A + epsilon), over the round"
    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise CompositionError(f"epsilon must not be negative, got {self.epsilon}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        counted = batch.own & batch.row["scored"][:, None]
        return batch.with_steps({"advantage": whiten(batch.step["advantage"], counted, ctx.total, self.epsilon)})
