"""Preference pairs from comparisons of a group's rows with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.sequences import total_reward
from policyopt.seen import preference
from policyopt.types import Batch, Source


@dataclass(frozen=True)
class Duels(Part):
    """The scored rows of a group meet in twos, in order (the first with the second, the third with the fourth ...); the
    winner of each is drawn with the probability that the world gives, `prefer(first, second) -> (B,)`. It has rank 0,
    the other rank 1; a row without an opponent has rank -1.

    drawn: off, the more probable one wins (the first of equals). judge: a model of the run that compares rows in the
    world's place (`seen.preferred`); 1/2 where it does not answer.
    """

    drawn: bool = True
    judge: str | None = None

    needs = "a world that compares rows"
    formula = "y_w = y_1 with probability P(y_1 > y_2), else y_2"
    writes = ("pair", "rank")
    critics = named_by("judge")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        first, second = neighbours(batch).T
        chance = preference(ctx, self.judge, batch, first, second).double().cpu()
        level = torch.rand(len(chance), generator=ctx.rng("duels"), dtype=torch.float64) if self.drawn else 0.5
        wins = ((chance > level) | (chance == 0.5) if not self.drawn else chance > level).to(first.device)
        pair, rank = torch.full_like(batch.row["group"], -1), torch.full_like(batch.row["group"], -1)
        number = torch.arange(len(first), device=first.device)
        for rows, won in ((first, wins), (second, ~wins)):
            pair[rows], rank[rows] = number, (~won).to(rank.dtype)
        return batch.with_rows({"pair": pair, "rank": rank})


def neighbours(batch: Batch) -> Tensor:
    """(pairs, 2) scored rows of a group, two by two in order."""
    group, found = batch.row["group"], []
    for one in group.unique():
        rows = ((group == one) & batch.row["scored"]).nonzero()[:, 0]
        found.append(rows[: len(rows) // 2 * 2].view(-1, 2))
    return torch.cat(found) if found else group.new_zeros(0, 2)


@dataclass(frozen=True)
class RankedPairs(Part):
    """Pairs from the rewards of a group: its best row against its worst, the second best against the second worst, and
    so on, at most `most` of them, while the gap is above `gap` (DNO's practical form, arXiv 2404.03715).

    own_losers: only rows that the policy wrote lose; a teacher's row may only win. Among equals the first row wins.
    """

    gap: float = 0.0
    most: int = 1
    own_losers: bool = True

    formula = "(k-th best, k-th worst) of g, R_w - R_l > gap"
    writes = ("pair", "rank")

    def __post_init__(self) -> None:
        if self.gap < 0 or self.most < 1:
            raise CompositionError(f"need a gap of 0 or more and at least one pair, got {self.gap} and {self.most}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, group, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        may_lose = scored & (batch.row["source"] == Source.POLICY) if self.own_losers else scored
        pair, rank, number = torch.full_like(group, -1), torch.full_like(group, -1), 0
        for one in group[scored].unique():
            winners = ((group == one) & scored).nonzero()[:, 0]
            winners = winners[reward[winners].argsort(descending=True, stable=True)]
            losers = ((group == one) & may_lose).nonzero()[:, 0]
            losers = losers[reward[losers].argsort(stable=True)]
            for best, worst in zip(winners[: self.most].tolist(), losers[: self.most].tolist(), strict=False):
                if reward[best] - reward[worst] <= self.gap or rank[best] >= 0 or rank[worst] >= 0:
                    break
                pair[[best, worst]], rank[best], rank[worst] = number, 0, 1
                number += 1
        return batch.with_rows({"pair": pair, "rank": rank})
