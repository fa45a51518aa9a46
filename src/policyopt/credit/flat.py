"""Groups whose rewards are all but equal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_range
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class FlatGroups(Part):
    """The advantages of rows whose group has rewards within `tolerance` of each other become 0. raw: they become the
    reward itself, as in the release of arXiv 2507.14988, where a flat group pushes all its rows one way."""

    tolerance: float = 1e-6
    raw: bool = False

    formula = "A_b = 0 (raw: R_b) where max_g R - min_g R <= tolerance"

    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise CompositionError(f"the tolerance must not be negative, got {self.tolerance}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored = total_reward(batch), batch.row["scored"]
        flat = scored & (group_range(reward, batch.row["group"], scored) <= self.tolerance)
        instead = spread(batch, torch.where(flat, reward, 0.0) if self.raw else torch.zeros_like(reward))
        return batch.with_steps({"advantage": torch.where(flat[:, None], instead, batch.step["advantage"])})
