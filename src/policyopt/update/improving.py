"""Closing the loop over rounds: whether the last update helped decides how its rows are used once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from policyopt.compose import Cell, CompositionError, Part
from policyopt.ops.masked import masked_mean, select
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch
from policyopt.update.apart import update_apart
from policyopt.update.gradient import GradientSteps

REWARDS = Cell("mean rewards of updates", list)
"""Of the last rounds, the oldest first."""
PREVIOUS = Cell("rows of the last update", list)
"""One Batch with its scores, or nothing."""


def improvement(now: float, past: Sequence[float], largest: float = 5.0, ddof: int = 1) -> float:
    """xi = clip(now - mean past, -largest, largest) / std past (n - ddof); the difference itself if the past has no
    spread, or is a single number."""
    values = torch.tensor(past, dtype=torch.float64)
    spread = float(values.std(correction=ddof)) if len(values) > ddof else 0.0
    return min(largest, max(-largest, now - float(values.mean()))) / (spread if spread >= 1e-8 else 1.0)


def attributed(batch: Batch, gain: float, bound: float, *, normalised: bool = True) -> Batch:
    """Advantages for using rows once more: in every group G A / (sum_b |A_b| + 1e-6) (normalised), times `gain`, within
    -bound..bound."""
    advantage = select(batch.own, batch.step["advantage"])
    if normalised:
        inverse = batch.row["group"].unique(return_inverse=True)[1]
        size = masked_mean(advantage, batch.trained).abs()
        total = size.new_zeros(int(inverse.max()) + 1).index_add(0, inverse, size)
        count = size.new_zeros(len(total)).index_add(0, inverse, torch.ones_like(size))
        advantage = advantage * (count / (total + 1e-6))[inverse][:, None]
    return batch.with_steps({"advantage": (gain * advantage).clamp(-bound, bound)})


@dataclass(frozen=True)
class PolicyImprovement(Part):
    """The update `then`; before it, one step on the rows of the last update, whose advantages are scaled by how much
    the policy has improved since (PIPO, arXiv 2604.00860): xi > 0 repeats the step, xi < 0 takes it back in part.

    xi is this round's mean reward, standardised by those of the `past` rounds before; there is no such step before
    there are as many, or if |xi| <= threshold. negative: the share lambda of a step that is taken back. ddof: the
    deviation divides by past - ddof (0: the released code). gate: bound of xi (PPO's form: 2, and not normalised). The
    step uses the objective's terms of the policy and the old policy that took the steps.
    """

    then: GradientSteps = field(default_factory=GradientSteps)
    past: int = 8
    negative: float = 0.1
    threshold: float = 0.0
    largest: float = 5.0
    bound: float = 10.0
    ddof: int = 1
    gate: float | None = None
    normalised: bool = True

    formula = (
        "A' = phi(xi) G A / sum_g |A|, phi(x) = x if x >= 0 else negative x, on the last round's rows; then as usual"
    )
    honours_limits = False

    def __post_init__(self) -> None:
        if (
            self.past < 1
            or self.ddof not in (0, 1)
            or self.negative < 0
            or self.threshold < 0
            or min(self.largest, self.bound) <= 0
        ):
            raise CompositionError(
                "need past >= 1, ddof 0 or 1, negative and threshold >= 0, largest and bound > 0, got "
                f"{self.past}, {self.ddof}, {self.negative}, {self.threshold}, {self.largest} and {self.bound}"
            )

    @property
    def optimizers(self) -> Mapping[str, Any]:
        return self.then.optimizers

    def signal(self, now: float, past: Sequence[float]) -> float:
        """phi(xi), 0 while there is nothing to compare with."""
        if len(past) < self.past:
            return 0.0
        xi = improvement(now, past, self.largest, self.ddof)
        if abs(xi) <= self.threshold:
            return 0.0
        if self.gate is not None:
            xi = min(self.gate, max(-self.gate, xi))
        return xi if xi >= 0 else self.negative * xi

    def __call__(self, ctx: Any, batch: Batch) -> None:
        past, scored = ctx[REWARDS][-self.past :], batch.row["scored"]
        now = float(total_reward(batch)[scored].double().mean()) if scored.any() else 0.0
        gain = self.signal(now, past)
        ctx.meter.add("improvement", gain, 1)
        if gain and ctx[PREVIOUS]:
            rows = attributed(ctx[PREVIOUS][0], gain, self.bound, normalised=self.normalised)
            terms = [term for term in ctx.stage.objective if term.trains == "policy"]
            only = {"policy": self.then.optimizers["policy"]}
            update_apart(ctx, rows, terms, replace(self.then, optimizers=only, epochs=1, minibatches=1))
        self.then(ctx, batch)
        ctx[REWARDS] = [*past, now][-self.past :]
        ctx[PREVIOUS] = [batch]
