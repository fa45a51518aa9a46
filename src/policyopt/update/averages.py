"""Averages of weights over updates with a correction for their beginning."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.types import Round
from policyopt.update.following import follow


@dataclass(frozen=True)
class CorrectedAverage(Part):
    """The exponentially weighted mean of a model's weights over updates (arXiv 2110.00641), with weights
    that sum to 1 from the first update on. Use in `after_step`.

    decay / (1 - decay) is the mean age of the weights, in updates.
    """

    model: str
    of: str = "policy"
    decay: float = 0.889

    formula = "W <- decay W + 1 ; model <- model + (of - model) / W, W_0 = 1"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise CompositionError(f"decay must be in 0..1, below 1, not {self.decay}")

    def cell(self, ctx: Context) -> Cell:
        """W; of the stage, as the averaged model is made again by every stage."""
        return Cell(f"average/{self.model}@{ctx.step - ctx.stage_step}", lambda: 1.0)

    def __call__(self, ctx: Context, done: Round | None = None) -> None:
        cell = self.cell(ctx)
        weight = ctx[cell] = self.decay * ctx[cell] + 1
        follow(ctx, self.model, self.of, 1 - 1 / weight)
