"""Ranked lists and pairs from what is said of a group's rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.rejection import accepted
from policyopt.ops.sequences import total_reward
from policyopt.seen import preference
from policyopt.types import Batch


def ranked(worth: Tensor, group: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) list id and place in the list by decreasing worth, the first row among equals; -1 for rows not scored."""
    rank = torch.full_like(group, -1)
    for one in group[scored].unique():
        rows = ((group == one) & scored).nonzero()[:, 0]
        rank[rows[worth[rows].argsort(descending=True, stable=True)]] = torch.arange(len(rows), device=rank.device)
    return torch.where(scored, group, -1), rank


@dataclass(frozen=True)
class RankedRows(Part):
    """Every group becomes a list: its scored rows by their rewards, which are the labels. whole: all rows of the round
    are one list."""

    whole: bool = False

    needs = "lists of rows"
    formula = "rank by R_b within g, label_b = R_b"
    writes = ("pair", "rank", "label")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, group = total_reward(batch), batch.row["group"]
        pair, rank = ranked(reward, torch.zeros_like(group) if self.whole else group, batch.row["scored"])
        return batch.with_rows({"pair": pair, "rank": rank, "label": reward})


@dataclass(frozen=True)
class SoftTournament(Part):
    """Every row of a group against every other: `strength` (B, K), the probability that a row is better than the row of
    rank k of its list, by the world's `prefer` in both orders; ranks by the sum of a row's strengths (OSP, arXiv
    2405.14103). hard: 1 for the better, 0 for the other, 1/2 at a tie. judge: a model of the run that compares rows in
    the world's place (`seen.preferred`); 1/2 where it does not answer.

    The label is the mean strength.
    """

    hard: bool = False
    judge: str | None = None

    needs = "a world that compares rows"
    formula = "p_ij = (P(i > j) + 1 - P(j > i)) / 2, rank by sum_j p_ij"
    writes = ("pair", "rank", "label", "strength")
    critics = named_by("judge")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        group, scored = batch.row["group"], batch.row["scored"]
        size = int(torch.bincount(group.unique(return_inverse=True)[1]).max()) if len(batch) else 0
        dtype = batch.step["reward"].dtype
        table = torch.full((len(batch), size), 0.5, dtype=dtype, device=batch.device)
        pair, rank, label = torch.full_like(group, -1), torch.full_like(group, -1), torch.zeros_like(table[:, 0])
        for one in group[scored].unique():
            rows = ((group == one) & scored).nonzero()[:, 0]
            left, right = rows.repeat_interleave(len(rows)), rows.repeat(len(rows))
            there, back = (preference(ctx, self.judge, batch, *sides) for sides in ((left, right), (right, left)))
            chance = (0.5 * (there + 1 - back)).to(dtype).view(len(rows), len(rows))
            if self.hard:
                chance = 0.5 * (1 + torch.sign(chance - 0.5))
            wins = chance.mean(1)
            order = wins.argsort(descending=True, stable=True)
            pair[rows], rank[rows[order]] = one, torch.arange(len(rows), device=rank.device)
            table[rows, : len(rows)], label[rows] = chance[:, order], wins
        return batch.with_rows({"pair": pair, "rank": rank, "label": label, "strength": table})


@dataclass(frozen=True)
class AcceptedPairs(Part):
    """Pairs of rows that statistical rejection sampling accepts (RSO, arXiv 2309.06657): of every group `count` rows,
    drawn as from the KL-optimal policy of temperature `beta`, meet in twos at random; the larger reward has rank 0.

    drawn: the winner is drawn with probability sigma(R_1 - R_2) instead. Equal rewards make no pair.
    """

    count: int = 8
    beta: float = 0.5
    drawn: bool = False

    formula = "accept b if u < exp((R_b - max R) / beta) in passes; (w, l) from accepted rows by R"
    writes = ("pair", "rank")
    needs = "random numbers of the run"

    def __post_init__(self) -> None:
        if self.count < 2 or self.beta <= 0:
            raise CompositionError(f"need count of at least 2 and beta > 0, got {self.count} and {self.beta}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, group, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        rank, pair, rng, number = torch.full_like(group, -1), torch.full_like(group, -1), ctx.rng("accepted"), 0
        for one in group[scored].unique():
            rows = ((group == one) & scored).nonzero()[:, 0]
            kept = rows[torch.tensor(accepted(reward[rows].cpu(), self.count, self.beta, rng), device=rows.device)]
            kept = kept[torch.randperm(len(kept), generator=rng).to(rows.device)]
            for first, second in kept[: len(kept) // 2 * 2].view(-1, 2).tolist():
                gap = float(reward[first] - reward[second])
                if self.drawn:
                    chance = torch.sigmoid(torch.tensor(gap, dtype=torch.float64))
                    gap = float(chance - torch.rand((), generator=rng, dtype=torch.float64))
                if gap:
                    pair[[first, second]] = number
                    rank[first], rank[second] = (0, 1) if gap > 0 else (1, 0)
                    number += 1
        return batch.with_rows({"pair": pair, "rank": rank})
