"""The clipped surrogate as one release has it: not pessimistic for negative advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, PerStep, Seen, coefficient
from policyopt.objective.surrogates import log_ratio
from policyopt.types import Batch


@dataclass(frozen=True)
class OptimisticSurrogate(Loss):
    """min(r A, clip(r) A) for A >= 0 and the larger of both for A < 0 (released code of arXiv 2503.03797), which is
    min(r, 1 + clip_high) A for either sign: the lower bound never acts. For A < 0 the gradient is kept where r is small
    and gone where r > 1 + clip_high: the reverse of PPO's pessimism."""

    clip_high: PerStep = 0.2

    formula = "-min(r, 1 + clip_high) A"
    reads = ("advantage",)
    roles = ("old",)

    def __post_init__(self) -> None:
        if not callable(self.clip_high) and not self.clip_high > 0:
            raise CompositionError(f"clip_high must be above 0, not {self.clip_high}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        most = 1 + coefficient(self.clip_high, batch)
        return -log_ratio(seen, batch).exp().clamp(max=most) * batch.step["advantage"]

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        ratio = log_ratio(seen, batch).exp()
        return {"ratio": ratio, "clipped": (ratio > 1 + coefficient(self.clip_high, batch)).to(ratio.dtype)}
