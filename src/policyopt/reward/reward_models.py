"""Rewards that reward models of the run give to whole rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch


@dataclass(frozen=True)
class ModelReward(Part):
    """Adds to the last own step what reward models say of the row, without gradient: the mean over `models`, which may
    be frozen or trained beside the policy.

    probability: sigma of it, for models that were trained on labels.
    """

    models: tuple[str, ...] = ("reward",)
    weight: float = 1.0
    probability: bool = False

    needs = "rewards of whole rows"
    formula = "R_b += weight mean_m g(r_m(row b)), g = sigma for a probability"

    def __post_init__(self) -> None:
        if not self.models:
            raise CompositionError("reward.models names at least one reward model")

    @property
    def critics(self) -> tuple[str, ...]:
        return self.models

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            seen = SeenBatch(ctx, batch)
            worths = torch.stack([seen.worth(model) for model in self.models]).to(batch.step["reward"])
        said = (worths.sigmoid() if self.probability else worths).mean(0)
        ctx.meter.mean("model_reward", said, batch.row["scored"])
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, self.weight * said)})
