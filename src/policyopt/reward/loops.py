"""Rows that run in circles, and how long rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch, Finish


def own_matches(items: Sequence[object]) -> list[int]:
    """z_q: how many of the first items agree with those from place q on (the Z function), in linear time."""
    found, left, right = [0] * len(items), 0, 0
    for q in range(1, len(items)):
        known = min(right - q, found[q - left]) if q < right else 0
        while q + known < len(items) and items[known] == items[q + known]:
            known += 1
        found[q] = known
        if q + known > right:
            left, right = q, q + known
    return found


def repeated_tail(items: Sequence[object]) -> float:
    """The share of a sequence that its end occupies with equal blocks: q c / n for the largest period q of which the
    last c >= 2 blocks are equal; 0 if the end does not repeat."""
    matches = own_matches(items[::-1])
    for period in range(len(items) // 2, 0, -1):
        if matches[period] >= period:
            return period * (1 + matches[period] // period) / len(items)
    return 0.0


@dataclass(frozen=True)
class LoopPenalty(Part):
    """Charges rows that a limit ended and whose end repeats itself (CAMPO, arXiv 2507.14683): `weight`, or with
    `adaptive` the weight times the repeated share. Rows that ended on their own are never charged."""

    weight: float = 0.1
    adaptive: bool = False

    needs = "the steps that were taken"
    formula = "R_b -= weight 1[rep_b > 0]   (adaptive: weight rep_b), rep_b of truncated rows only"

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise CompositionError(f"a charge must not be negative, got {self.weight}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        taken, own = SeenBatch(ctx, batch).taken(), batch.own
        like = batch.step["reward"]
        share = like.new_zeros(len(batch))
        for row in (batch.row["finish"] == Finish.TRUNCATED).nonzero()[:, 0].tolist():
            share[row] = repeated_tail(taken[row][own[row]].tolist())
        ctx.meter.mean("looping", (share > 0).to(like), batch.row["scored"])
        charge = share if self.adaptive else (share > 0).to(like)
        return batch.with_steps({"reward": like - on_last(batch, self.weight * charge)})


@dataclass(frozen=True)
class LengthBonus(Part):
    """Adds `weight` times the row's length as a share of `limit` own steps, at most `weight`."""

    weight: float = 0.1
    limit: int = 1024

    formula = "R_b += weight min(|o_b| / limit, 1)"

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise CompositionError(f"the limit is a number of steps of at least 1, not {self.limit}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        share = (batch.lengths / self.limit).clamp(max=1).to(batch.step["reward"])
        share = torch.where(batch.row["scored"], self.weight * share, 0.0)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, share)})
