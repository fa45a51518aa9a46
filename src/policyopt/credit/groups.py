"""Advantages of a row relative to the other rows of its group; no critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.groups import group_centred, group_mean, group_range, group_std, others_mean
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import ROW_COLUMNS, Batch


def standardised(
    reward: Float[Tensor, " B"], ids: Int[Tensor, " B"], scored: Bool[Tensor, " B"], epsilon: float, ddof: int
) -> Float[Tensor, " B"]:
    """(R - mean_g) / (std_g + epsilon); 0 for unscored rows, groups of one and groups without spread."""
    deviation = group_std(reward, ids, scored, ddof)
    # The range, because a rounded mean gives equal rewards a deviation above 0.
    usable = scored & (group_range(reward, ids, scored) > 0) & (deviation > 0)
    return torch.where(usable, (reward - group_mean(reward, ids, scored)) / (deviation + epsilon), 0.0)


def check_bound(bound: float | None) -> None:
    if bound is not None and bound <= 0:
        raise CompositionError(f"the bound of advantages must be above 0, not {bound}; None is no bound")


def bounded(x: Tensor, bound: float | None) -> Tensor:
    """x clipped to -bound..bound."""
    return x if bound is None else x.clamp(-bound, bound)


@dataclass(frozen=True)
class GroupStandardised(Part):
    """GRPO's outcome advantage (arXiv 2402.03300, section 4.1.2). ddof 1 divides the variance by n - 1.

    bound: advantages are clipped to -bound..bound. reward, advantage: the columns it reads and writes, for methods
    that standardise several rewards apart. within: row columns that rows compared with each other share.
    """

    epsilon: float = 1e-6
    ddof: int = 1
    bound: float | None = None
    reward: str = "reward"
    advantage: str = "advantage"
    within: tuple[str, ...] = ("group",)

    formula = "A_b = (R_b - mean_g R) / (std_g R + epsilon)"
    writes = named_by("advantage")

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.ddof not in (0, 1):
            raise CompositionError(
                f"need epsilon >= 0 and ddof 0 (divide by n) or 1 (by n - 1), got {self.epsilon} and {self.ddof}"
            )
        if not self.within:
            raise CompositionError("within names the columns that rows of a group share; the usual one is ('group',)")
        check_bound(self.bound)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.reward, *(name for name in self.within if name not in ROW_COLUMNS))

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward = total_reward(batch, self.reward)
        ids = batch.row["group"] if self.within == ("group",) else batch.ids(*self.within)
        advantage = standardised(reward, ids, batch.row["scored"], self.epsilon, self.ddof)
        return batch.with_steps({self.advantage: spread(batch, bounded(advantage, self.bound))})


@dataclass(frozen=True)
class GroupCentred(Part):
    """Dr. GRPO's advantage (arXiv 2503.20783, section 3.2): no division by the spread. A group of one gives 0."""

    formula = "A_b = R_b - mean_g R"

    writes = ("advantage",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, ids, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        return batch.with_steps({"advantage": spread(batch, group_centred(reward, ids, scored))})


@dataclass(frozen=True)
class LeaveOneOut(Part):
    """RLOO's advantage (arXiv 2402.14740): unbiased. A group of one gives 0."""

    formula = "A_b = R_b - mean of R over the other rows of g"

    writes = ("advantage",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, ids, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        usable = scored & (group_range(reward, ids, scored) > 0)  # which a group of one has not either
        advantage = torch.where(usable, reward - others_mean(reward, ids, scored), 0.0)
        return batch.with_steps({"advantage": spread(batch, advantage)})
