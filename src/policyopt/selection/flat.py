"""Leaving out rounds that have nothing to say."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class UnlessFlat(Part):
    """All rows, or none if the advantages of all trained steps together lie within `least` of each other (arXiv
    2507.14988, released code)."""

    least: float = 0.01

    formula = "all rows if max A - min A >= least, else none"

    reads = ("advantage",)

    def __post_init__(self) -> None:
        if self.least < 0:
            raise CompositionError(f"least must not be negative, got {self.least}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        advantage = batch.step["advantage"][batch.trained]
        if len(advantage) and float(advantage.max() - advantage.min()) >= self.least:
            return batch
        return batch[:0]
