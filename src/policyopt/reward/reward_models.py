"""Rewards that reward models of the run give to whole rows: one, or several that may disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch

Combine = Literal["mean", "minimum", "lower", "variance"]


def combined(worths: Float[Tensor, "M B"], how: Combine = "mean", pessimism: float = 1.0) -> Float[Tensor, " B"]:
    """What several reward models say together (Coste et al. 2023, arXiv 2310.02743).

    mean; minimum, the worst case (WCO); lower: mean - pessimism std, a lower confidence bound; variance: mean -
    pessimism variance (uncertainty-weighted, UWO). Spreads divide by M.
    """
    if how == "minimum":
        return worths.min(0).values
    mean = worths.mean(0)
    if how == "mean":
        return mean
    variance = worths.var(0, correction=0)
    return mean - pessimism * (variance if how == "variance" else variance.sqrt())


@dataclass(frozen=True)
class ModelReward(Part):
    """Adds to the last own step what reward models say of the row, without gradient. They may be frozen, trained beside
    the policy, or judges behind an API; a row of which one of them says nothing (nan) is unscored.

    probability: sigma of it, for models that were trained on labels. combine, pessimism: how several become one number
    (see `combined`): the lower ones pay little where the models disagree, as they do off the data they learned from.
    """

    models: tuple[str, ...] = ("reward",)
    weight: float = 1.0
    probability: bool = False
    combine: Combine = "mean"
    pessimism: float = 1.0

    needs = "rewards of whole rows"
    formula = (
        "R_b += weight C_m g(r_m(row b)), g = sigma for a probability, C = mean, min, mean - k std or mean - k variance"
    )

    def __post_init__(self) -> None:
        if not self.models:
            raise CompositionError("reward.models names at least one reward model")
        if self.combine != "mean" and len(self.models) < 2:
            raise CompositionError(f"reward.combine={self.combine} needs two or more models, got {self.models}")
        if self.pessimism < 0:
            raise CompositionError(f"reward.pessimism must be 0 or more, not {self.pessimism}")

    @property
    def critics(self) -> tuple[str, ...]:
        return self.models

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            seen = SeenBatch(ctx, batch)
            worths = torch.stack([seen.worth(model) for model in self.models]).to(batch.step["reward"])
        worths = worths.sigmoid() if self.probability else worths
        known = worths.isfinite().all(0)
        worths = worths.where(known, 0.0)
        said, scored = combined(worths, self.combine, self.pessimism), batch.row["scored"] & known
        ctx.meter.mean("model_reward", said, scored)
        ctx.meter.mean("unanswered", (~known).to(said), torch.ones_like(known))
        if len(self.models) > 1:
            ctx.meter.mean("reward_disagreement", worths.std(0, correction=0), scored)
        reward = batch.step["reward"] + on_last(batch, self.weight * said)
        return batch.with_steps({"reward": reward}).with_rows({"scored": scored})
