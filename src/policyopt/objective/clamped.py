"""A surrogate whose ratio is clamped without the pessimistic minimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.surrogates import log_ratio
from policyopt.types import Batch


@dataclass(frozen=True)
class ClampedSurrogate(Loss):
    """FIND's loss (arXiv 2407.19453, eq. 9): a sample whose ratio is outside 1 - clip..1 + clip has no gradient,
    whatever the sign of its advantage."""

    clip: float = 0.2

    formula = "-A clip(r, 1 - clip, 1 + clip), r = exp(log pi - log pi_old)"

    reads = ("advantage",)
    roles = ("old",)

    def __post_init__(self) -> None:
        if not 0 < self.clip <= 1:
            raise CompositionError(f"clip must be above 0 and at most 1, not {self.clip}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        ratio = log_ratio(seen, batch).exp()
        return -batch.step["advantage"] * ratio.clamp(1 - self.clip, 1 + self.clip)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        change = log_ratio(seen, batch)
        ratio = change.exp()
        outside = (ratio < 1 - self.clip) | (ratio > 1 + self.clip)
        return {"ratio": ratio, "clipped": outside.to(ratio.dtype), "kl_old": torch.expm1(change) - change}
