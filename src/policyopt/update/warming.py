"""A lagged model that follows ever more slowly."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Round
from policyopt.update.following import follow


@dataclass(frozen=True)
class WarmingAverage(Part):
    """model <- d model + (1 - d) of after every round, d = min(slope n, most), n the rounds of the stage so far: at
    first a copy, later a moving average (DiffusionNFT, arXiv 2509.16117, section 3.3)."""

    model: str
    of: str = "policy"
    slope: float = 0.001
    most: float = 0.5

    def __post_init__(self) -> None:
        if self.slope < 0 or not 0 <= self.most < 1:
            raise CompositionError(f"need slope >= 0 and most in 0..1, below 1; got {self.slope} and {self.most}")

    def __call__(self, ctx: Context, done: Round | None = None) -> None:
        follow(ctx, self.model, self.of, min(self.slope * ctx.stage_step, self.most))
