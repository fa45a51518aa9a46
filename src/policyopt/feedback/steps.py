"""Steps that judges agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class AgreedSteps(Part):
    """Step column `good`: 1 on own steps that every judge of the world gives at least `right` (arXiv 2505.14403: a
    language model and a process reward model must agree). A judge is a method of the world, batch -> (B, T) in 0..1."""

    judges: tuple[str, ...] = ("judge_steps",)
    right: float = 0.5

    needs = "a world that judges steps"
    formula = "good_bt = 1 if every judge says judge(bt) >= right"
    writes = ("good",)

    def __post_init__(self) -> None:
        if not self.judges:
            raise CompositionError("good steps need at least one judge")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        agreed = batch.own
        for judge in self.judges:
            said = asked(ctx.world, judge, "how right every step is")(batch)
            agreed = agreed & (said >= self.right)  # nan, a step that is not judged, is not good
        ctx.meter.mean("good_steps", agreed.to(torch.float64), batch.own)
        return batch.with_steps({"good": agreed.to(batch.step["reward"].dtype)})
