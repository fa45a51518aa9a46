"""Rewards of reward models in common units, and rewards of single steps from the log-probabilities of two models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part, named_by
from policyopt.ops.masked import select
from policyopt.ops.pieces import pieces
from policyopt.ops.sequences import on_last, total_reward
from policyopt.seen import SeenBatch
from policyopt.types import Batch, Round

SCORES = Cell("score_moments", lambda: {"count": 0.0, "mean": 0.0, "squares": 0.0})
"""Count, mean and sum of squared distances from the mean of all scores so far."""


def merged(before: Mapping[str, float], scores: Tensor) -> dict[str, float]:
    """Moments with more scores (n,) added (Chan, Golub and LeVeque 1983)."""
    scores = scores.double()
    if not len(scores):
        return dict(before)
    count = before["count"] + len(scores)
    gap = float(scores.mean()) - before["mean"]
    inside = float(((scores - scores.mean()) ** 2).sum())
    return {
        "count": count,
        "mean": before["mean"] + gap * len(scores) / count,
        "squares": before["squares"] + inside + gap**2 * before["count"] * len(scores) / count,
    }


@dataclass(frozen=True)
class RunningScore(Part):
    """A row's reward in units of the spread of all rewards so far, this round's included, and within -bound..bound
    (PPO-max, arXiv 2307.04964, section 5.3.1). The whole reward stands on the last own step.

    centred: less their mean (not where advantages are whitened anyway). scaled: over their standard deviation (n - 1).
    bound: None is none. With neither of the first two it only clips. Row column `score`: what the row had.
    """

    centred: bool = True
    scaled: bool = True
    bound: float | None = 10.0

    formula = "R_b <- clip((R_b - mean R) / std R, -bound, bound), over all rows so far"
    writes = ("score",)

    def __post_init__(self) -> None:
        if self.bound is not None and self.bound <= 0:
            raise CompositionError(f"the bound of scores must be above 0, not {self.bound}; None is no bound")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        raw, scored = total_reward(batch), batch.row["scored"]
        now = merged(ctx[SCORES], raw[scored])
        score = raw - now["mean"] if self.centred else raw
        spread = (now["squares"] / max(now["count"] - 1, 1)) ** 0.5
        # Equal scores have no spread but that of their rounded mean.
        if self.scaled and spread > 1e-12 * abs(now["mean"]):
            score = score / spread
        if self.bound is not None:
            score = score.clamp(-self.bound, self.bound)
        return batch.with_steps({"reward": on_last(batch, select(scored, score))}).with_rows({"score": raw})

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.judged
        ctx[SCORES] = merged(ctx[SCORES], rows.row["score"][rows.row["scored"]])


@dataclass(frozen=True)
class LogRatioReward(Part):
    """Every own step is paid for how much more likely one model finds it than another (RTO, arXiv 2404.18922: a
    model trained by DPO against its reference, whose summed log-ratio is the reward that DPO implies).

    bound: of what a step is paid; None is none.
    """

    coefficient: float = 0.05
    bound: float | None = 0.05
    model: str = "preferred"
    against: str = "reference"

    formula = "r_bt += clip(coefficient (log pi_model(bt) - log pi_against(bt)), -bound, bound)"
    roles = named_by("model", "against")

    def __post_init__(self) -> None:
        if self.bound is not None and self.bound <= 0:
            raise CompositionError(f"the bound of a step's reward must be above 0, not {self.bound}; None is none")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            seen = SeenBatch(ctx, batch)
            said: dict[str, Any] = {role: seen[role].detach() for role in self.roles}
        paid = self.coefficient * select(batch.own, said[self.model].logp - said[self.against].logp)
        if self.bound is not None:
            paid = paid.clamp(-self.bound, self.bound)
        ctx.meter.mean("log_ratio_reward", paid, batch.own)
        return batch.with_steps({"reward": batch.step["reward"] + paid}).with_scores(said)


@dataclass(frozen=True)
class TurnReward(Part):
    """Adds, at the end of every turn (a line of a program), what a value model says of the state it leads to, within
    -bound..bound and over the number of turns, so that more turns do not pay more (arXiv 2410.17621, section 3.2).

    by_length: whether it is divided.
    """

    weight: float = 0.1
    bound: float = 1.0
    by_length: bool = True
    critic: str = "process"

    formula = "r_bt += weight clip(w(s_b,t+1), -bound, bound) / m_b at the last step of each of a row's m_b turns"
    reads = ("turn",)
    critics = named_by("critic")

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise CompositionError(f"the bound of a turn's reward must be above 0, not {self.bound}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            said = select(batch.own, SeenBatch(ctx, batch).value(self.critic, following=True))
        turns = pieces(batch, "turn")
        count = torch.bincount(turns.row, minlength=len(batch)).clamp(min=1)
        share = count[turns.row].to(said.dtype) if self.by_length else torch.ones_like(said[turns.row, turns.last])
        paid = self.weight * said[turns.row, turns.last].clamp(-self.bound, self.bound) / share
        added = turns.on_last(paid, batch.step["reward"])
        ctx.meter.mean("turn_reward", added, added != 0)
        return batch.with_steps({"reward": batch.step["reward"] + added})
