"""Rewards from how likely a user is to answer in one way or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import Context, Part
from policyopt.ops.masked import masked_mean
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch


def likelihood_contrast(
    mean_logp: Float[Tensor, " R"], of: Int[Tensor, " R"], pleased: Bool[Tensor, " R"], rows: int
) -> Float[Tensor, " B"]:
    """Mean over a row's pleased follow-ups less mean over its displeased ones; 0 for a row that lacks either."""
    means, seen = [], []
    for side in (pleased, ~pleased):
        count = torch.bincount(of[side], minlength=rows).to(mean_logp)
        total = mean_logp.new_zeros(rows).index_add(0, of[side], mean_logp[side])
        means.append(total / count.clamp(min=1))
        seen.append(count > 0)
    return torch.where(seen[0] & seen[1], means[0] - means[1], 0.0)


@dataclass(frozen=True)
class FollowUpLikelihood(Part):
    """Adds the follow-up likelihood reward (FLR, arXiv 2409.13948): how much likelier, per token, a model of users
    finds follow-ups of pleased users than those of displeased ones. Without gradient.

    The world appends them, `follow_ups(batch) -> (rows, of (R,), pleased (R,))`: rows whose trained steps are a
    follow-up, the row of the batch that each is about, and which kind it is.
    """

    weight: float = 1.0
    model: str = "user"

    needs = "a world that appends follow-ups"
    formula = (
        "R_b += weight (mean_{f pleased} l_f - mean_{f displeased} l_f), l_f = mean_t log p_model(f_t | row b, f_<t)"
    )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        rows, of, pleased = asked(ctx.world, "follow_ups", "what users may say next")(batch)
        model: Any = ctx.models[self.model]
        with torch.no_grad():
            likely = masked_mean(model.score(rows).logp, rows.trained)
        said = likelihood_contrast(likely, of, pleased, len(batch)).to(batch.step["reward"])
        ctx.meter.mean("follow_up_reward", said, batch.row["scored"])
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, self.weight * said)})
