"""Preferences made from the policy's own samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Context, Part
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class BestVersusWorst(Part):
    """Every group becomes one pair: its best row (rank 0) against its worst (rank 1), others rank -1.

    A group whose scored rewards are all equal makes no pair: a coin toss is not a preference. Among equals the
    first row wins, so the pairing is deterministic.
    """

    writes = ("pair", "rank")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, group, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        rank = torch.full_like(group, -1)
        for one in group[scored].unique():
            rows = ((group == one) & scored).nonzero()[:, 0]
            best, worst = rows[reward[rows].argmax()], rows[reward[rows].argmin()]
            if reward[best] > reward[worst]:
                rank[best], rank[worst] = 0, 1
        return batch.with_rows({"pair": group.clone(), "rank": rank})
