"""Preference pairs from a judge that is asked in both orders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.feedback.duels import neighbours
from policyopt.seen import preferred
from policyopt.types import Batch


@dataclass(frozen=True)
class JudgedPairs(Part):
    """The scored rows of a group meet in twos, in order, before a judge: a model of the run that says how far it
    prefers first rows to second ones, a trained preference model or a judge that is asked in both orders (see
    `seen.preferred`), nan where it did not answer. The preferred row has rank 0, the other 1. No pair (rank -1) comes
    of a verdict within `margin` of 1/2, for instance of a judge that prefers whatever it reads first, or of no answer.
    """

    judge: str = "judge"
    margin: float = 0.25

    needs = "a judge of pairs"
    formula = "y_w = y_1 if (P(1 | 1, 2) + 1 - P(1 | 2, 1)) / 2 > 1/2 + margin, y_2 if < 1/2 - margin, else no pair"
    writes = ("pair", "rank")
    critics = named_by("judge")

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise CompositionError(f"feedback.margin must be in 0..0.5 (less than 0.5), not {self.margin}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        first, second = neighbours(batch).T
        chance = preferred(ctx, self.judge, batch, first, second).double()
        won = (chance - 0.5).sign().where((chance - 0.5).abs() > self.margin, 0.0).nan_to_num(0.0).to(first.device)
        pair, rank = torch.full_like(batch.row["group"], -1), torch.full_like(batch.row["group"], -1)
        decided = won != 0
        better, worse = first.where(won > 0, second)[decided], second.where(won > 0, first)[decided]
        number = torch.arange(len(better), device=first.device)
        pair[better], pair[worse] = number, number
        rank[better], rank[worse] = 0, 1
        self.tell(ctx, chance, decided)
        return batch.with_rows({"pair": pair, "rank": rank})

    @staticmethod
    def tell(ctx: Context, chance: Tensor, decided: Tensor) -> None:
        """How many pairs the judge decided, of those it answered, and how many it did not answer."""
        answered = ~chance.isnan()
        ctx.meter.mean("judge_decided", decided.cpu().double(), answered.cpu())
        ctx.meter.mean("judge_unanswered", (~answered).double(), torch.ones_like(answered))
