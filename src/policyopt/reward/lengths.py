"""Rewards for the length of rows: against the past of the task, the middle of the group, or a budget. Lengths are own
steps; a row is right if the reward it has so far exceeds `right`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_quantile
from policyopt.ops.sequences import on_last, total_reward
from policyopt.remembered import by_task, note, recall
from policyopt.types import Batch, Round

SHORTEST, SUM, COUNT = "shortest right length", "sum of right lengths", "number of right rows"
MEDIAN = "median right length"
"""Names of what is remembered of tasks."""


# -- curves, (B,) from (B,) ------------------------------------------------------------------------------------------
def cosine_saving(length: Tensor, target: Tensor) -> Tensor:
    """cos(pi n / (2 h)) below 2 h, -1 beyond: 1 at n = 0, 0 at n = h (arXiv 2505.11225)."""
    return torch.where(length < 2 * target, torch.cos(math.pi * length / (2 * target)), -1.0)


def linear_saving(length: Tensor, target: Tensor, right: Tensor, slack: float = 0.1) -> Tensor:
    """1 - n / h below h (right rows), 0 up to (1 + slack) h, then -(n - (1 + slack) h) / h."""
    over = length - (1 + slack) * target
    short = torch.where(right & (length < target), 1 - length / target, 0.0)
    return torch.where(over > 0, -over / target, short)


def middle_bonus(length: Tensor, low: Tensor, high: Tensor, decay: float, *, point: bool = True) -> Tensor:
    """1 between two bounds, then linearly down to 0 at `decay` steps from the nearer (arXiv 2507.15758, eq. 5); without
    `point` 0 where the bounds do not differ."""
    away = torch.minimum((length - low).abs(), (length - high).abs())
    inside = (low <= length) & (length <= high)
    bonus = torch.where(inside, 1.0, (1 - away / decay).clamp(min=0))
    return bonus if point else torch.where(low < high, bonus, 0.0)


def bell(length: Tensor, target: Tensor, sigma: float) -> Tensor:
    """exp(-(n - c)^2 / (2 sigma^2))."""
    return torch.exp(-((length - target) ** 2) / (2 * sigma**2))


def budget_worth(budget: Tensor, limit: float, beta: float) -> Tensor:
    """beta cos(pi b / (2 L)): what a right row within its budget is worth (arXiv 2507.15844, eq. 3)."""
    return beta * torch.cos(math.pi * budget / (2 * limit))


def beyond_budget(length: Tensor, budget: Tensor, limit: float, beta: float, alpha: float) -> Tensor:
    """beta cos(pi n / (2 L)) - alpha |n - b|: what a right row beyond its budget is worth."""
    return budget_worth(length, limit, beta) - alpha * (length - budget).abs()


# -- parts -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LengthReward(Part, ABC):
    """R += weight x bonus, on the last own step of scored rows. Row column `right`: whether the reward before exceeds
    `right`."""

    weight: float = 1.0
    right: float = 0.5

    writes = ("right",)

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise CompositionError(f"the weight of a length reward must not be negative, got {self.weight}")

    @abstractmethod
    def bonus(self, ctx: Context, batch: Batch, right: Tensor) -> Tensor:
        """(B,) float64; anything in rows that are not scored."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored = batch.row["scored"]
        right = scored & (total_reward(batch) > self.right)
        bonus = torch.where(scored, self.bonus(ctx, batch, right), 0.0)
        ctx.meter.mean("length_bonus", bonus, scored)
        added = on_last(batch, (self.weight * bonus).to(batch.step["reward"].dtype))
        return batch.with_steps({"reward": batch.step["reward"] + added}).with_rows({"right": right})


@dataclass(frozen=True)
class AgainstHistory(LengthReward):
    """HAPO (arXiv 2505.11225): shorter than the task's record is rewarded, longer charged: right rows at most -floor,
    wrong ones never above 0. A task without record gives 0. The record h is written after the round: the shortest
    right length so far, or (mode "mean") the mean of all right lengths.

    curve "linear": 1 - n / h below h, 0 up to 1.1 h, then down to -floor (right) or -1 (wrong).
    """

    floor: float = 0.7
    curve: Literal["cosine", "linear"] = "cosine"
    mode: Literal["min", "mean"] = "min"

    formula = "R_b += w (right: max(f, -floor); wrong: min(f, 0)), f = cos(pi |o_b| / (2 h)) below 2 h, else -1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise CompositionError(f"floor is the most that a right row loses, in 0..1, not {self.floor}")

    def record(self, ctx: Context, ids: Tensor) -> Tensor:
        """(B,) h, 0 where there is none."""
        if self.mode == "min":
            return recall(ctx, SHORTEST, ids)
        return recall(ctx, SUM, ids) / recall(ctx, COUNT, ids).clamp(min=1)

    def bonus(self, ctx: Context, batch: Batch, right: Tensor) -> Tensor:
        length, held = batch.lengths.double(), self.record(ctx, batch.row["task"])
        target = held.clamp(min=1)
        cosine = self.curve == "cosine"
        worth = cosine_saving(length, target) if cosine else linear_saving(length, target, right)
        found = torch.where(right, worth.clamp(min=-self.floor), worth.clamp(-1.0, 0.0))
        return torch.where(held > 0, found, 0.0)

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.judged[done.judged.row["right"] & (done.judged.lengths > 0)]
        ids, total = by_task(rows.row["task"], rows.lengths)
        note(ctx, SUM, ids, recall(ctx, SUM, ids) + total)
        note(ctx, COUNT, ids, recall(ctx, COUNT, ids) + by_task(rows.row["task"], torch.ones(len(rows)))[1])
        now = torch.tensor([float(rows.lengths[rows.row["task"] == one].min()) for one in ids], dtype=torch.float64)
        held = recall(ctx, SHORTEST, ids).cpu()
        note(ctx, SHORTEST, ids, torch.where(held > 0, torch.minimum(held, now), now))


@dataclass(frozen=True)
class RemembersMedian(LengthReward, ABC):
    """Keeps the median length of a task's right rows, of the last round that had any; shrinking: if it is shorter."""

    shrinking: bool = False

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.judged[done.judged.row["right"] & (done.judged.lengths > 0)]
        task = rows.row["task"]
        medians = group_quantile(rows.lengths.double(), task, torch.ones_like(task, dtype=torch.bool), 0.5)
        ids = task.unique()
        now = torch.stack([medians[task == one][0] for one in ids]) if len(ids) else medians
        held = recall(ctx, MEDIAN, ids)
        keep = (held == 0) | (now < held) | torch.tensor(not self.shrinking, device=held.device)
        note(ctx, MEDIAN, ids[keep], now[keep])


@dataclass(frozen=True)
class NearTheMiddle(RemembersMedian):
    """LAPO's first stage (arXiv 2507.15758): right rows gain if their length lies between two quantiles of the right
    lengths of the group, less and less up to `decay` steps outside. point: also where the quantiles are one length (a
    single right row; as released nobody gains there)."""

    weight: float = 0.7
    low: float = 0.3
    high: float = 0.7
    decay: float = 100.0
    point: bool = True

    formula = "R_b += w right_b clip(1 - dist(|o_b|, [q_low, q_high]) / decay, 0, 1), quantiles of right rows of g"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high <= 1 or self.decay <= 0:
            raise CompositionError(
                f"need quantiles 0 <= low < high <= 1 and decay > 0, got {self.low}, {self.high} and {self.decay}"
            )

    def bonus(self, ctx: Context, batch: Batch, right: Tensor) -> Tensor:
        length, group = batch.lengths.double(), batch.row["group"]
        low, high = (group_quantile(length, group, right, share) for share in (self.low, self.high))
        return torch.where(right, middle_bonus(length, low, high, self.decay, point=self.point), 0.0)


@dataclass(frozen=True)
class NearTheTarget(RemembersMedian):
    """LAPO's second stage: right rows gain by a bell around the length that is remembered for the task (where none is:
    the median of the right lengths of the group)."""

    weight: float = 0.8
    sigma: float = 120.0
    shrinking: bool = True

    formula = "R_b += w right_b exp(-(|o_b| - c)^2 / (2 sigma^2)), c = remembered median, else the group's"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise CompositionError(f"sigma must be above 0, not {self.sigma}; inf adds the weight to every right row")

    def bonus(self, ctx: Context, batch: Batch, right: Tensor) -> Tensor:
        length, held = batch.lengths.double(), recall(ctx, MEDIAN, batch.row["task"])
        target = torch.where(held > 0, held, group_quantile(length, batch.row["group"], right, 0.5))
        return torch.where(right, bell(length, target, self.sigma), 0.0)


@dataclass(frozen=True)
class WithinBudget(Part):
    """HBPO (arXiv 2507.15844): a right row is worth f2(b) within its budget b (row column `budget`), f1(n, b) beyond
    it; wrong rows and rows beyond `limit` own steps are worth 0. Row column `par`: f2(b). alpha None is 1 / limit.

    lesser: the smaller of both also within the budget, as released.
    """

    limit: float = 4096
    beta: float = 4.0
    alpha: float | None = None
    lesser: bool = False
    right: float = 0.5

    formula = (
        "R_b = right_b (|o_b| > b: f1(|o_b|, b), else f2(b)); f2(b) = beta cos(pi b / 2L), f1 = f2(n) - alpha |n - b|"
    )
    reads = ("budget",)
    writes = ("par",)

    def __post_init__(self) -> None:
        if self.limit <= 0 or (self.alpha is not None and self.alpha < 0):
            raise CompositionError(f"need limit > 0 and alpha >= 0, got {self.limit} and {self.alpha}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        length, budget = batch.lengths.double(), batch.row["budget"].double()
        alpha = 1 / self.limit if self.alpha is None else self.alpha
        par = budget_worth(budget, self.limit, self.beta)
        beyond = beyond_budget(length, budget, self.limit, self.beta, alpha)
        worth = torch.where(length > budget, beyond, torch.minimum(beyond, par) if self.lesser else par)
        right = batch.row["scored"] & (total_reward(batch) > self.right) & (length <= self.limit)
        dtype = batch.step["reward"].dtype
        reward = on_last(batch, torch.where(right, worth, 0.0).to(dtype))
        return batch.with_steps({"reward": reward}).with_rows({"par": par})
