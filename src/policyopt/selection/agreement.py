"""Rows that are right however they are asked."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import Context, Part
from policyopt.ops.groups import group_count
from policyopt.ops.sequences import total_reward
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class RightBothWays(Part):
    """Keeps judgments of a comparison only if there are several of it at hand, in both orders of its sides, and all are
    right: their reward is above `right` (RISE, arXiv 2502.11689). The world says which rows judge the same comparison,
    `comparisons(batch) -> (B,) int64`, and which have its sides swapped, `swapped(batch) -> (B,)`.
    """

    right: float = 0.5

    needs = "a world of comparisons"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        what = "which comparison a row judges"
        ids = asked(ctx.world, "comparisons", what)(batch)
        turned = asked(ctx.world, "swapped", what)(batch)
        scored = batch.row["scored"]
        fine = scored & (total_reward(batch) > self.right)
        every = group_count(ids, fine) == group_count(ids, scored)
        both = (group_count(ids, fine & turned) > 0) & (group_count(ids, fine & ~turned) > 0)
        return batch[fine & every & both]
