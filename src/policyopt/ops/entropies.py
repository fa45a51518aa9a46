"""Entropies on a scale of -1 to 1 around a quantile."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-8


@dataclass(frozen=True)
class EntropyScale:
    """h = (log H - quantile) / spread, divided by `most` where h > 0 and by |least| elsewhere (HAPO, arXiv 2509.16591;
    its release divides by `least` itself, which turns the sign of low entropies)."""

    quantile: float
    spread: float
    most: float
    least: float

    @staticmethod
    def of(entropy: Float[Tensor, " n"], quantile: float) -> EntropyScale:
        """The scale of entropies (n,): the quantile by nearest rank, the root mean square distance from it."""
        level = entropy.double().clamp(min=LEAST).log()
        middle = level.sort().values[round(quantile * (len(level) - 1))]
        spread = ((level - middle) ** 2).mean().clamp(min=LEAST).sqrt()
        score = (level - middle) / spread
        return EntropyScale(float(middle), float(spread), float(score.max()), float(score.min()))

    def score(self, entropy: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """In -1..1 for the entropies that the scale was made of; others may lie beyond."""
        score = (entropy.clamp(min=LEAST).log() - self.quantile) / self.spread
        above, below = (max(abs(bound), LEAST) for bound in (self.most, self.least))
        return torch.where(score > 0, score / above, score / below)

    def numbers(self) -> tuple[float, ...]:
        return astuple(self)
