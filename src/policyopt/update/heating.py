"""The scale of entropies that a heated sampler samples by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import CompositionError, Part
from policyopt.ops.entropies import EntropyScale
from policyopt.types import Round


@dataclass(frozen=True)
class UpdateHeat(Part):
    """An `after` hook: the sampler's scale becomes that of the round's entropies (column `entropy`)."""

    model: str = "heated"
    quantile: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise CompositionError(f"the quantile is in 0..1, not {self.quantile}")

    def __call__(self, ctx: Any, done: Round) -> None:
        rows = done.credited
        counted = rows.own & rows.row["scored"][:, None]
        if counted.any():
            scale = EntropyScale.of(rows.step["entropy"][counted], self.quantile)
            ctx.models[self.model].scale.copy_(torch.tensor(scale.numbers()))
