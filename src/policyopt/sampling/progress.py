"""How far branches go back, as a function of the rounds done."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part


@dataclass(frozen=True)
class BackwardProgress(Part):
    """Where branches leave their common stem: at first before the last `first` transitions of a chain, at the end of
    `rounds` rounds before the last `last` (B2-DiffuRL's backward progressive training, arXiv 2503.11240, eq. 8).

    Round j trains m_j = first + floor(j (last - first + 1) / rounds) transitions, never more than the chain has. The
    step that draws the initial noise belongs to the stem.
    """

    first: int = 14
    last: int = 20
    rounds: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last or self.rounds < 1:
            raise CompositionError(
                f"need 1 <= first <= last and rounds >= 1, got {self.first}, {self.last} and {self.rounds}"
            )

    def interval(self, done: int) -> int:
        """m_j, the trained transitions after `done` rounds."""
        grown = min(done, self.rounds - 1) * (self.last - self.first + 1) // self.rounds
        return self.first + grown

    def __call__(self, ctx: Context) -> int:
        """Steps of the stem."""
        transitions = ctx.world.limit - 1
        return 1 + transitions - min(self.interval(ctx.stage_step), transitions)
