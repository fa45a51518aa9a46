"""Models that follow others: hooks that write weights, after every round or (in `after_step`) after every update."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Round
from policyopt.update.masters import LOW_PRECISION


def _due(ctx: Context, done: Round | None, every: int) -> bool:
    """Counted in rounds of the stage, or in updates of the run where there is no round yet."""
    return (ctx.updates if done is None else ctx.stage_step + 1) % every == 0


@dataclass(frozen=True)
class Average(Part):
    """model <- decay * model + (1 - decay) * of (exponential moving average), every `every` rounds or updates.
    Buffers (statistics of a normaliser, counters) are copied."""

    model: str
    of: str = "policy"
    decay: float = 0.99
    every: int = 1

    def __call__(self, ctx: Context, done: Round | None = None) -> None:
        if _due(ctx, done, self.every):
            follow(ctx, self.model, self.of, self.decay)


def follow(ctx: Context, model: str, of: str, decay: float) -> None:
    """One step of the moving average of a model's weights; decay 0 copies them. CompositionError: in 16 bit, where the
    small steps of an average are rounded away and it stands still."""
    follower, leader = ctx.models[model], ctx.models[of]
    low = next((p.dtype for p in follower.parameters() if p.dtype in LOW_PRECISION), None)
    if decay and low is not None:
        raise CompositionError(
            f"a moving average of {of!r} needs weights in float32 or more, and those of {model!r} are {low}: its steps "
            "would be rounded away. Use policy.dtype=float32, with policy.reading.autocast=bfloat16 for its speed"
        )
    with torch.no_grad():
        for own, other in zip(follower.parameters(), leader.parameters(), strict=True):
            own.lerp_(other, 1 - decay)
        for own, other in zip(follower.buffers(), leader.buffers(), strict=True):
            own.copy_(other)


@dataclass(frozen=True)
class Refresh(Part):
    """model becomes a copy of `of`, every `every` rounds or updates."""

    model: str
    of: str = "policy"
    every: int = 1

    def __call__(self, ctx: Context, done: Round | None = None) -> None:
        if _due(ctx, done, self.every):
            ctx.models[self.model].load_state_dict(ctx.models[self.of].state_dict())
