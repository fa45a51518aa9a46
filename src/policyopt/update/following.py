"""Models that follow others: `after` hooks that write weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Context, Part
from policyopt.types import Round


@dataclass(frozen=True)
class Average(Part):
    """After every round: model <- decay * model + (1 - decay) * of (exponential moving average)."""

    model: str
    of: str = "policy"
    decay: float = 0.99

    def __call__(self, ctx: Context, done: Round) -> None:
        with torch.no_grad():
            leader = ctx.models[self.of].state_dict()
            for name, value in ctx.models[self.model].state_dict().items():
                if value.is_floating_point():
                    value.lerp_(leader[name], 1 - self.decay)
                else:
                    value.copy_(leader[name])


@dataclass(frozen=True)
class Refresh(Part):
    """After every `every` rounds of the stage: model becomes a copy of `of`."""

    model: str
    of: str = "policy"
    every: int = 1

    def __call__(self, ctx: Context, done: Round) -> None:
        if (ctx.stage_step + 1) % self.every == 0:
            ctx.models[self.model].load_state_dict(ctx.models[self.of].state_dict())
