"""Clip ranges that differ from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class ClipByNoise(Part):
    """A clip range for every denoising step, from `least` at the noisiest trained step to `most` at the last (DPPO,
    arXiv 2409.00588, appendix C.2):
    c_i = least + (most - least) (exp(rate i / (n - 1)) - 1) / (exp(rate) - 1), i = 0..n-1.

    count: n, the trained steps of a chain; end: the number (`clock_denoise`) of its last step. n = 1 has c = most.
    """

    least: float = 0.01
    most: float = 0.01
    rate: float = 3.0
    count: int = 10
    end: int = 20

    reads = ("clock_denoise",)

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most or self.rate <= 0 or not 1 <= self.count <= self.end:
            raise CompositionError(
                "need 0 < least <= most, rate > 0 and 1 <= count <= end, got "
                f"{self.least}, {self.most}, {self.rate}, {self.count}, {self.end}"
            )

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T)."""
        clock = batch.step["clock_denoise"].to(torch.get_default_dtype())
        if self.count == 1:
            return torch.full_like(clock, self.most)
        place = (clock - (self.end - self.count + 1)).clamp(0, self.count - 1) / (self.count - 1)
        return self.least + (self.most - self.least) * torch.expm1(self.rate * place) / math.expm1(self.rate)


@dataclass(frozen=True)
class ClipByEntropy(Part):
    """A clip range for every step from its `entropy_score` h in -1..1 (HAPO, arXiv 2509.16591 v2, eq. 12 and 13): sure
    steps may become less likely by more (side "low"), unsure ones more likely ("high")."""

    base: float = 0.2
    amount: float = 1.0
    side: Literal["low", "high"] = "high"

    reads = ("entropy_score",)

    def __post_init__(self) -> None:
        if self.base <= 0 or self.amount < 0:
            raise CompositionError(f"need base > 0 and amount >= 0, got {self.base} and {self.amount}")

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T): base (1 + amount max(h, 0)), or base (1 + amount max(-h, 0))."""
        score = batch.step["entropy_score"]
        return self.base * (1 + self.amount * (score if self.side == "high" else -score).clamp(min=0))
