"""Losses that train a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.ops.masked import select
from policyopt.types import Batch


@dataclass(frozen=True)
class SquaredValueError(Loss):
    """(V - G)^2 / 2 per step, G = the column `return`.

    clip: PPO's pessimistic form max of the plain and the clipped error, V kept within `clip` of its old value.
    """

    critic: str = "critic"
    clip: float | None = None

    formula = "(V_bt - G_bt)^2 / 2"
    critics = named_by("critic")

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise CompositionError(f"the value clip must be above 0, not {self.clip}; None turns it off")

    reads = ("return", "value")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        # Selected first: a critic may say anything of padding, and the square's gradient would carry nan back.
        value = select(batch.trained, seen.value(self.critic))
        target = select(batch.trained, batch.step["return"])
        error = (value - target) ** 2
        if self.clip is not None:
            old = select(batch.trained, batch.step["value"])
            near = old + (value - old).clamp(-self.clip, self.clip)
            error = torch.maximum(error, (near - target) ** 2)
        return 0.5 * error
