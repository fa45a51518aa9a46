"""One right and one wrong row of every task that is solved sometimes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class OneOfEach(Part):
    """Of every group with right and wrong rows and a share of right ones below `most`, one of each at random (OREAL,
    arXiv 2502.06781, section 4.1). right: the reward that makes a row right. Unscored rows never."""

    most: float = 0.8
    right: float = 0.5

    needs = "random numbers of the run"
    formula = "one row with R >= right and one with R < right of groups with 0 < mean_g 1[R >= right] < most"

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1:
            raise CompositionError(f"most is a share above 0 and at most 1, not {self.most}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        group, scored, good = batch.row["group"], batch.row["scored"], total_reward(batch) >= self.right
        rng, kept = ctx.rng("one of each"), [group.new_zeros(0)]
        for one in group[scored].unique():
            rows = scored & (group == one)
            sides = [(rows & side).nonzero()[:, 0] for side in (good, ~good)]
            if min(map(len, sides)) and len(sides[0]) / int(rows.sum()) < self.most:
                kept += [side[torch.randint(len(side), (1,), generator=rng).to(side.device)] for side in sides]
        return batch[torch.cat(kept).sort().values]
