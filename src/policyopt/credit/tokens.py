"""Group-relative advantages whose statistics are over steps, not rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.groups import standardised
from policyopt.ops.groups import group_range
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class StepStandardised(Part):
    """GRPO's advantage with mean and population deviation over all steps of the group, so that a row counts by its
    length and sum_b |o_b| A_b = 0 in every group (HAPO, arXiv 2509.16591, eq. 6): what an average over steps needs.

    bound: a group with an advantage of at least this size gets GRPO's instead (std over rows, n - 1); None: never.
    """

    epsilon: float = 1e-6
    bound: float | None = 5.0

    formula = "A_b = (R_b - mu) / (sd + epsilon), mu and sd over R repeated |o| times"
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0 or (self.bound is not None and self.bound <= 0):
            raise CompositionError(f"need epsilon >= 0 and a bound above 0 or none, got {self.epsilon}, {self.bound}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored, group = total_reward(batch), batch.row["scored"], batch.row["group"]
        length = torch.where(scored, batch.lengths, 0).to(reward)
        inverse = group.unique(return_inverse=True)[1]

        def mean(x: Tensor) -> Tensor:
            """Of rows (B,) in their group, each as often as it has steps."""
            sums = [x.new_zeros(int(inverse.max()) + 1).index_add(0, inverse, y) for y in (length * x, length)]
            return (sums[0] / sums[1].clamp(min=1))[inverse]

        known = torch.where(scored, reward, 0.0)
        centred = known - mean(known)
        deviation = mean(centred**2).sqrt()
        usable = scored & (group_range(reward, group, scored) > 0) & (deviation > 0)
        advantage = torch.where(usable, centred / (deviation + self.epsilon), 0.0)
        if self.bound is not None:
            largest = torch.zeros_like(advantage).scatter_reduce(0, inverse, advantage.abs(), "amax")[inverse]
            advantage = torch.where(
                largest >= self.bound, standardised(reward, group, scored, self.epsilon, 1), advantage
            )
        return batch.with_steps({"advantage": spread(batch, advantage)})
