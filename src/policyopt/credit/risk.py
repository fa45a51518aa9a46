"""Advantages of bundles of tasks: the lower part of the scores' distribution counts more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.groups import group_count, group_mean, group_range, group_std, places
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch, Round

Sharing = Literal["uniform", "deviation", "share", "absolute_share"]

QUANTILES = Cell("quantiles of bundles", list)
"""The lower and the upper quantile, once there are any."""


def bundled(batch: Batch, size: int) -> Int[Tensor, " B"]:
    """An id per row: the bundle of its group (groups in order of their ids, `size` of them each, the last may be
    smaller)."""
    return batch.row["group"].unique(return_inverse=True)[1] // size


def attempt_number(batch: Batch) -> Int[Tensor, " B"]:
    """Which of its group's scored rows a row is, in row order; 0 for the others."""
    ids, scored = batch.row["group"], batch.row["scored"]
    number = torch.zeros_like(ids)
    number[scored] = places(ids[scored])
    return number


def mixed_value_at_risk(
    score: Tensor, low: float, high: float, alpha: float, beta: float, tail: float, *, natural: bool
) -> Tensor:
    """(tail A_CVaR + A_RVaR) / (tail + 1): A_RVaR = ([S - low]+ - [S - high]+ + natural (low - high)) / (beta - alpha),
    A_CVaR = -[low - S]+ / alpha."""
    middle = (score - low).clamp(min=0) - (score - high).clamp(min=0) + (low - high) * natural
    return (-tail * (low - score).clamp(min=0) / alpha + middle / (beta - alpha)) / (tail + 1)


@dataclass(frozen=True)
class RiskAdvantage(Part):
    """RiskPO (arXiv 2510.00911). The k-th attempts at all tasks of a bundle form a paper with the sum S of their
    rewards. Its advantage weighs the range between two quantiles of S and the tail below the lower one; quantiles are
    tracked over rounds. Divided by the deviation of the bundle's papers; papers that are all alike give 0.

    size: tasks in a bundle. alpha, beta: the quantiles' levels. tail: weight of the tail. rate: of the tracking.
    natural: the baseline of the released MATH script. sharing: a paper's advantage goes to its rows as it is
    ("uniform"), over the deviation of the row's own group ("deviation"), in proportion to R less the group's mean
    ("share", which can turn the sign of right rows), or to its amount, with its sign ("absolute_share").
    """

    size: int = 5
    alpha: float = 0.2
    beta: float = 0.8
    tail: float = 1.5
    rate: float = 0.1
    natural: bool = True
    sharing: Sharing = "deviation"
    epsilon: float = 1e-6

    formula = "A_k = (tail A_CVaR(S_k) + A_RVaR(S_k)) / (tail + 1) / std S, S_k = sum of R over the k-th attempts"
    writes = ("advantage", "paper", "paper_score")

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.alpha < self.beta < 1 or self.tail < 0 or not 0 < self.rate <= 1:
            raise CompositionError(
                "need size >= 1, 0 < alpha < beta < 1, tail >= 0 and rate in 0..1, got "
                f"{self.size}, {self.alpha}, {self.beta}, {self.tail} and {self.rate}"
            )
        if self.sharing not in get_args(Sharing) or self.epsilon <= 0:
            raise CompositionError(
                f"sharing is one of {', '.join(get_args(Sharing))} and epsilon above 0, got {self.sharing!r} and "
                f"{self.epsilon}"
            )

    def quantiles(self, ctx: Context, scores: Float[Tensor, " N"]) -> list[float]:
        """Those of the run, or in its first round of the papers."""
        held = ctx[QUANTILES]
        levels = torch.tensor([self.alpha, self.beta], dtype=scores.dtype, device=scores.device)
        return list(held) if held else torch.quantile(scores, levels).tolist()

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored = total_reward(batch), batch.row["scored"]
        bundle, attempt = bundled(batch, self.size), attempt_number(batch)
        paper = (bundle * (int(attempt.max()) + 1 if len(attempt) else 1) + attempt).unique(return_inverse=True)[1]
        score = group_mean(reward, paper, scored) * group_count(paper, scored)
        nothing = torch.zeros_like(reward)
        columns = {"paper": torch.where(scored, paper, -1), "paper_score": torch.where(scored, score, 0.0)}
        if not bool(scored.any()):
            return batch.with_steps({"advantage": spread(batch, nothing)}).with_rows(columns)
        low, high = self.quantiles(ctx, score[one_each(columns["paper"])])
        whole = mixed_value_at_risk(score, low, high, self.alpha, self.beta, self.tail, natural=self.natural)
        shared = self.shared(self.standardised(whole, score, bundle, columns["paper"]), reward, paper, batch)
        return batch.with_steps({"advantage": spread(batch, torch.where(scored, shared, 0.0))}).with_rows(columns)

    def standardised(self, whole: Tensor, score: Tensor, bundle: Tensor, paper: Tensor) -> Tensor:
        """Over the deviation of the bundle's papers; a single paper as it is, equal papers 0."""
        one = torch.zeros_like(paper, dtype=torch.bool)
        one[one_each(paper)] = True
        differ = group_range(score, bundle, one) > 0
        scaled = whole / (group_std(score, bundle, one) + self.epsilon)
        return torch.where(group_count(bundle, one) > 1, torch.where(differ, scaled, 0.0), whole)

    def shared(self, whole: Tensor, reward: Tensor, paper: Tensor, batch: Batch) -> Tensor:
        ids, scored = batch.row["group"], batch.row["scored"]
        if self.sharing == "uniform":
            return whole
        if self.sharing == "deviation":
            deviation = group_std(reward, ids, scored)
            return whole / (torch.where(deviation > 1e-3, deviation, 1.0) + self.epsilon)
        ahead, count = torch.where(scored, reward - group_mean(reward, ids, scored), 0.0), group_count(paper, scored)
        if self.sharing == "share":
            total = group_mean(ahead, paper, scored) * count
            flat = total.abs() <= self.epsilon
            return torch.where(flat, whole / count.clamp(min=1), whole * ahead / torch.where(flat, 1.0, total))
        total = group_mean(ahead.abs(), paper, scored) * count
        return torch.where(total > 0, whole.abs() * ahead / torch.where(total > 0, total, 1.0), 0.0)

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.credited
        scores = rows.row["paper_score"][one_each(rows.row["paper"])]
        if not len(scores):
            return
        if not ctx[QUANTILES]:
            ctx[QUANTILES] = self.quantiles(ctx, scores)
            return
        below = [float((scores < q).to(scores.dtype).mean()) for q in ctx[QUANTILES]]
        levels = (self.alpha, self.beta)
        ctx[QUANTILES] = [
            q + self.rate * (level - share) for q, level, share in zip(ctx[QUANTILES], levels, below, strict=True)
        ]


def one_each(paper: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """A row of every paper; -1 is none."""
    number = torch.arange(len(paper), device=paper.device)
    kept = paper >= 0
    if not bool(kept.any()):
        return number[:0]
    first = torch.full((int(paper.max()) + 1,), len(paper), device=paper.device)
    first = first.scatter_reduce(0, paper[kept], number[kept], "amin")
    return first[first < len(paper)]
