"""A bonus for a behaviour, decided task by task by whether it helps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count, group_mean
from policyopt.ops.sequences import on_last, total_reward
from policyopt.types import Batch


def contrast(
    worth: Float[Tensor, " B"], ids: Int[Tensor, " B"], told: Bool[Tensor, " B"], others: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Mean worth of the rows `told` less that of the `others`, of each row's group; 0 where either is empty."""
    both = (group_count(ids, told) > 0) & (group_count(ids, others) > 0)
    return torch.where(both, group_mean(worth, ids, told) - group_mean(worth, ids, others), 0.0)


@dataclass(frozen=True)
class ContrastBonus(Part):
    """Adds +weight to rows that show a behaviour where it helps their task, -weight where it harms, nothing where the
    difference is at most `margin` (GCPO's group contrastive masking, arXiv 2506.07160).

    Whether it helps: mean of the grade `accuracy` of the group's rows that were told to show it (column `told` 1) less
    that of those told not to (0). behaviour: the name of the grade that says whether a row shows it.
    conditional False: the bonus is the same for every task, as in the paper's comparison.
    """

    weight: float = 0.5
    margin: float = 0.1
    behaviour: str = "behaviour"
    accuracy: str = "accuracy"
    conditional: bool = True

    needs = "rows that were told opposite things"
    formula = "R_b += weight M_g 1[b shows it], M_g = sign(a_W - a_N) if |a_W - a_N| > margin, else 0"

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise CompositionError(f"the margin must not be negative, got {self.margin}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("told", f"reward:{self.behaviour}", f"reward:{self.accuracy}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        scored, told = batch.row["scored"], batch.row["told"]
        accuracy = total_reward(batch, f"reward:{self.accuracy}")
        gain = contrast(accuracy, batch.row["group"], scored & (told == 1), scored & (told == 0))
        sign = torch.where(gain.abs() > self.margin, gain.sign(), 0.0) if self.conditional else torch.ones_like(gain)
        ctx.meter.mean("helps", sign, scored)
        shows = total_reward(batch, f"reward:{self.behaviour}") > 0
        bonus = torch.where(scored & shows, self.weight * sign, 0.0)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, bonus)})
