"""Credit of thoughts by what answers after each of several budgets are worth, and of the answers among themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, Seen
from policyopt.ops.groups import group_count, group_mean
from policyopt.ops.masked import select
from policyopt.ops.pieces import pair_ids
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch


def thought_steps(seen: Seen, batch: Batch) -> Tensor:
    """The mask of a term of thoughts."""
    return batch.trained & (batch.row["budget"] < 0)[:, None]


def answer_steps(seen: Seen, batch: Batch) -> Tensor:
    """The mask of a term of answers."""
    return batch.trained & (batch.row["budget"] >= 0)[:, None]


def budget_relative(
    score: Float[Tensor, "n S"],
    prior: Float[Tensor, " S"],
    group: Int[Tensor, " n"],
    baseline: Literal["both", "own", "group", "none"] = "both",
) -> Float[Tensor, "n S"]:
    """Advantages of every thought's S segments (arXiv 2505.13438, BRPO).

    Ret_s = sum_{j>=s} P_j q_j, less (s/S) V1_s + (S-s)/S V2_s: V1 is what the thought reached before s (recent budgets
    count double), times the prior that is left; V2 the group's mean of Ret_s, 0 for a group of one. "own" is V1 alone,
    "group" V2 alone.
    """
    count = score.shape[1]
    left = prior.flip(0).cumsum(0).flip(0)
    gain = (prior * score).flip(1).cumsum(1).flip(1)
    weight = 2.0 ** torch.arange(count, dtype=score.dtype, device=score.device)
    before = (weight * score).cumsum(1) - weight * score
    own = before / (weight.cumsum(0) - weight).clamp(min=1) * left
    every = torch.ones_like(group, dtype=torch.bool)
    several = group_count(group, every) > 1
    shared = torch.stack([group_mean(column, group, every) for column in gain.unbind(1)], 1)
    shared = torch.where(several[:, None], shared, 0.0)
    place = torch.arange(count, dtype=score.dtype, device=score.device) / count
    mixed = {"both": place * own + (1 - place) * shared, "own": own, "group": shared, "none": torch.zeros_like(own)}
    return gain - mixed[baseline]


@dataclass(frozen=True)
class BudgetRelative(Part):
    """The steps of a thought up to a budget get what the answers after this and later budgets are worth, less what is
    expected (`budget_relative`); an answer its reward less the mean of its cut, or of the group at its budget where a
    cut has one answer. For rows of `sampling.anytime`.

    prior: the weight of every budget (normalised). baseline: of the thoughts. Answers that could not be graded count as
    the others of their thought and budget do; a thought with a budget that has none gets 0.
    """

    prior: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    baseline: Literal["both", "own", "group", "none"] = "both"

    needs = "rows of thoughts and their answers"
    formula = "A_is = sum_{j>=s} P_j q_ij - ((s/S) V1_is + ((S-s)/S) V2_s); answers: c - mean of their cut"
    reads = ("trace", "budget", "cut", "budget_of_step")
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if not self.prior or min(self.prior) < 0 or sum(self.prior) <= 0:
            raise CompositionError(f"the prior needs weights of 0 or more, not all 0; got {self.prior}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, budget, group = total_reward(batch), batch.row["budget"], batch.row["group"]
        answer = budget >= 0
        if bool((budget >= len(self.prior)).any()):
            raise CompositionError(
                f"credit.prior has {len(self.prior)} budgets, rows were cut at {int(budget.max()) + 1}; give one "
                f"weight "
                "for every budget of the sampling"
            )
        counted = answer & batch.row["scored"]
        trace = batch.row["trace"].unique(return_inverse=True)[1]
        total = reward.new_zeros(int(trace.max()) + 1 if len(batch) else 0, len(self.prior))
        number = torch.zeros_like(total)
        at = (trace[counted], budget[counted])
        total.index_put_(at, reward[counted], accumulate=True)
        number.index_put_(at, torch.ones_like(reward[counted]), accumulate=True)
        prior = reward.new_tensor(self.prior) / sum(self.prior)
        told = (number > 0).all(1)
        of_trace = torch.zeros(len(total), dtype=group.dtype, device=group.device).index_copy(0, trace, group)
        thought = torch.zeros_like(total)
        if bool(told.any()):
            thought[told] = budget_relative((total / number.clamp(min=1))[told], prior, of_trace[told], self.baseline)
        by_step = thought[trace].gather(1, batch.step["budget_of_step"].clamp(max=len(self.prior) - 1))
        # Thoughts are marked apart, so that a cut's answers are compared with answers only.
        cut = pair_ids(torch.where(answer, batch.row["cut"], -1 - trace), torch.zeros_like(trace))
        alone = group_count(cut, counted) < 2
        peers = pair_ids(group, budget)
        mean = torch.where(alone, group_mean(reward, peers, counted), group_mean(reward, cut, counted))
        by_row = torch.where(counted, reward - mean, 0.0)
        advantage = torch.where(answer[:, None], spread(batch, by_row), select(batch.own, by_step))
        return batch.with_steps({"advantage": advantage})
