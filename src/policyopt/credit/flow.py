"""How far a row's hidden states lie from a flow that was fitted to good ones, and dense credit from such a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import select
from policyopt.ops.sequences import pack_own, to_go
from policyopt.types import Batch


def scaled_in_rows(
    score: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    threshold: float = 0.0,
    top: int | None = None,
    *,
    two_sided: bool = False,
) -> Float[Tensor, "B T"]:
    """(s - min) / (max - min) over a row's masked steps, 0 where not above `threshold` and where all are equal. top:
    only so many largest stay. two_sided: 2 z - 1, kept where its size is above; top takes half from each end."""
    low = torch.where(mask, score, torch.inf).amin(1, keepdim=True)
    high = torch.where(mask, score, -torch.inf).amax(1, keepdim=True)
    spread = torch.where(high > low, high - low, 1.0)
    z = torch.where(mask & (high > low), (score - low) / spread, 0.0)
    if two_sided:
        z = torch.where(mask & (high > low), 2 * z - 1, 0.0)
    kept = z.abs() > threshold
    if top is not None:
        half = top // 2 if two_sided else 0
        ends = ((z, top - half), (-z, half)) if two_sided else ((z, top),)
        ranks = [
            (torch.where(mask, x, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1) < n)
            for x, n in ends
        ]
        kept = kept & torch.stack(ranks).any(0)
    return torch.where(kept, z, 0.0)


@dataclass(frozen=True)
class FlowDeviation(Part):
    """Step column `deviation`: how badly the flow `model` explains the hidden state after each own step, the mean over
    `shares` of share / (1 - share) times its squared error, scaled in each row (RLFR, arXiv 2510.10201);
    see `scaled_in_rows` for the other options."""

    shares: tuple[float, ...] = (0.8,)
    threshold: float = 0.0
    top: int | None = None
    two_sided: bool = False
    model: str = "flow"

    needs = "hidden states"
    formula = "z = minmax over the row of mean_s s / (1 - s) mean_d (v - (h - n))^2, 0 where not above the threshold"
    writes = ("deviation",)

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise CompositionError(f"shares of the flow's time are above 0 and below 1, got {self.shares}")
        if not 0 <= self.threshold < 1 or (self.top is not None and self.top < 1):
            raise CompositionError(f"need threshold in 0..1 and top >= 1, got {self.threshold} and {self.top}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        flow: Any = ctx.models[self.model]
        with torch.no_grad():
            hidden = flow.hidden(batch)
            score = torch.zeros(batch.own.shape, dtype=hidden.dtype, device=hidden.device)
            for share in self.shares:
                noise = torch.randn(hidden.shape, generator=ctx.rng("deviation"), dtype=torch.float64).to(hidden)
                found = flow.deviation(hidden, noise, torch.full_like(score, share))
                score = score + share / (1 - share) * found / len(self.shares)
        z = scaled_in_rows(score, batch.own, self.threshold, self.top, two_sided=self.two_sided)
        ctx.meter.mean("deviation", z, batch.own)
        return batch.with_steps({"deviation": z.to(batch.step["reward"].dtype)})


@dataclass(frozen=True)
class DenseAdvantage(Part):
    """A row's advantage, paid at its last step, and a dense reward `weight` times a column, both discounted to every
    own step (RLFR, arXiv 2510.10201). gamma = 1: A + weight times the column's sum to go."""

    column: str = "deviation"
    weight: float = -0.01
    gamma: float = 1.0

    formula = "A_t <- gamma^(T - t) A + weight sum_{s >= t} gamma^(s - t) x_s"
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise CompositionError(f"gamma must be in 0..1, got {self.gamma}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("advantage", self.column)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored = batch.own & batch.row["scored"][:, None]
        (dense,), back = pack_own(batch, select(scored, batch.step[self.column]))
        ahead = (batch.own.flip(1).cumsum(1).flip(1) - 1).clamp(min=0)
        paid = batch.step["advantage"] * self.gamma**ahead + self.weight * to_go(dense, self.gamma).gather(1, back)
        return batch.with_steps({"advantage": select(scored, paid)})
