"""Rewards from what a judge says of the steps of a row (`world.judge_steps`).

The judge says of every own step, in 0..1, how right it is; nan where a step is none of those that it judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count
from policyopt.ops.masked import masked_mean, select
from policyopt.ops.sequences import on_last, total_reward
from policyopt.seen import asked
from policyopt.types import Batch


def judged_steps(ctx: Context, batch: Batch) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """What the judge says, 0 where it says nothing, and where it says something."""
    said = asked(ctx.world, "judge_steps", "how right every step is")(batch).to(batch.step["reward"])
    counted = batch.own & ~said.isnan()
    return select(counted, said), counted


def leading_share(said: Float[Tensor, "B T"], counted: Bool[Tensor, "B T"], right: float = 0.5) -> Float[Tensor, " B"]:
    """k / n: of a row's n judged steps, those before the first one below `right`. 0 without any."""
    wrong = counted & (said < right)
    leading = counted & (wrong.long().cumsum(1) == 0)
    return leading.sum(1).to(said.dtype) / counted.sum(1).clamp(min=1)


def geometric_mean(said: Float[Tensor, "B T"], counted: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """exp(mean log s) over a row's judged steps; 0 if one of them is 0, 1 without any."""
    return masked_mean(torch.where(counted, said, 1.0).log(), counted).exp()


@dataclass(frozen=True)
class LeadingSteps(Part):
    """The share of right steps before the first wrong one, on the last own step (arXiv 2505.11595). right: a step is
    right if the judge gives it at least that."""

    right: float = 0.5

    needs = "a world that judges steps"
    formula = "R_b = k / n, the first k of n judged steps right"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        share = leading_share(*judged_steps(ctx, batch), self.right)
        return batch.with_steps({"reward": on_last(batch, share)})


@dataclass(frozen=True)
class WhereNoneRight(Part):
    """Another reward, times `scale`, in the groups of which no row is right (its reward so far below `right`). Groups
    with a right row keep their rewards; only rows of the others are judged again."""

    instead: Part = LeadingSteps()
    scale: float = 1.0
    right: float = 1.0

    needs = "a world that judges steps"
    formula = "R_b = scale R'_b if max_g R < right, else R_b"

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise CompositionError(f"the scale of the other reward must be above 0, not {self.scale}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored = batch.row["scored"]
        solved = group_count(batch.row["group"], scored & (total_reward(batch) >= self.right)) > 0
        ctx.meter.mean("none_right", (~solved).to(batch.step["reward"]), scored)
        if bool(solved.all()):
            return batch
        instead: Any = self.instead
        other: Batch = instead(ctx, batch[~solved])
        reward, known = batch.step["reward"].clone(), scored.clone()
        reward[~solved] = self.scale * other.step["reward"]
        known[~solved] &= other.row["scored"]
        return batch.with_steps({"reward": reward}).with_rows({"scored": known})


@dataclass(frozen=True)
class ShapedChain(Part):
    """A reward of a whole chain of judged steps: their geometric mean m times a factor of m and of their number n
    (PSPO*, arXiv 2411.11681; the released piecewise form). A chain of at most one step gets 0.

    factor: "piecewise" m e^(short n) up to `pivot` steps; beyond, a gate of that steepness passes to growth for m above
    `high`, decay for m below `low`, in between a rate of `long` (m - still) / high. "rising" and "peaked": a Weibull
    curve of n (its distribution, its density) with `width` and `exponent`. "flat": the geometric mean alone.
    most: longer chains count as that many steps; the released factor has no bound.
    """

    factor: Literal["piecewise", "rising", "peaked", "flat"] = "piecewise"
    pivot: float = 4.0
    short: float = 0.5
    long: float = 0.1
    gate: float = 10.0
    high: float = 0.88433
    low: float = 0.2
    still: float = 0.21159
    width: float = 4.0
    exponent: float = 2.0
    most: int | None = None

    needs = "a world that judges steps"
    formula = "R_b = m f(m, n), m = exp(mean_j log s_j), n judged steps; 0 if n <= 1"

    def __post_init__(self) -> None:
        if min(self.pivot, self.width, self.exponent) <= 0 or (self.most is not None and self.most < 2):
            raise CompositionError(
                "pivot, width and exponent must be above 0 and most at least 2, got "
                f"{self.pivot}, {self.width}, {self.exponent} and {self.most}"
            )

    def weight(self, mean: Float[Tensor, " B"], count: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """f(m, n)."""
        if self.factor == "flat":
            return torch.ones_like(mean)
        if self.factor == "piecewise":
            return mean * self._growth(mean, count)
        scaled = (count / self.width) ** self.exponent
        if self.factor == "rising":
            return 1 - (-scaled).exp()
        return self.exponent / count.clamp(min=1) * scaled * (-scaled).exp()

    def _growth(self, mean: Tensor, count: Tensor) -> Tensor:
        beyond = count - self.pivot
        rate = torch.where(mean > self.high, self.long, self.long * (mean - self.still) / self.high)
        rate = torch.where(mean < self.low, -self.long, rate)
        gate, top = torch.sigmoid(self.gate * beyond), torch.full_like(mean, self.short * self.pivot).exp()
        longer = (1 - gate) * top + gate * top * (rate * beyond).exp()
        return torch.where(count <= self.pivot, (self.short * count).exp(), longer)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        said, counted = judged_steps(ctx, batch)
        mean, count = geometric_mean(said, counted), counted.sum(1).to(said.dtype)
        held = count if self.most is None else count.clamp(max=self.most)
        worth = torch.where(count > 1, mean * self.weight(mean, held), 0.0)
        ctx.meter.mean("step_quality", mean, batch.row["scored"])
        return batch.with_steps({"reward": on_last(batch, worth)})
