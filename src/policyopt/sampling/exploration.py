"""How much a policy explores, as a function of a stage's progress."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part


@dataclass(frozen=True)
class Annealed(Part):
    """From `first` to `last`, linearly over the first `share` of the stage's rounds."""

    first: float = 1.0
    last: float = 0.05
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.first <= 0 or self.last <= 0:
            raise CompositionError(f"exploration must stay above 0, got {self.first} and {self.last}")
        if not 0 <= self.share <= 1:
            raise CompositionError(f"share must be in 0..1, not {self.share}")

    def level(self, ctx: Context) -> float:
        """The level of this round."""
        rounds = self.share * ctx.stage_total
        done = 1.0 if rounds <= ctx.stage_step else ctx.stage_step / rounds
        return self.first + (self.last - self.first) * done
