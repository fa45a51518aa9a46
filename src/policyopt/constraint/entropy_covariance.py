"""Entropy that is asked for where being sure goes together with being rewarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed, select
from policyopt.seen import distribution
from policyopt.types import Batch

WEIGHT = "entropy_weight"


@dataclass(frozen=True)
class CovarianceEntropy(Loss):
    """A bonus for the entropy of every step, strongest where the policy is sure and rewarded for it, as the entropy
    falls there first (Light-IF's TEA-RL, arXiv 2508.03178, as released): in every row a softmax over its trained steps
    of (A - mean A) (log pi - mean log pi), means over all trained steps of the update, times `scale`, at most `most`.
    No gradient goes through this strength. Role policy needs `full=True`."""

    scale: float = 10.0
    most: float = 5.0

    formula = "-min(most, scale softmax_t(c_b)_t) H_bt, c_bt = (A_bt - mean A) (log pi_bt - mean log pi)"
    reads = ("advantage",)

    def __post_init__(self) -> None:
        if self.scale < 0 or self.most <= 0:
            raise CompositionError(f"need scale >= 0 and most > 0, got {self.scale} and {self.most}")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        own = batch.trained
        total: Any = getattr(seen, "ctx").total  # noqa: B009

        def centred(x: Tensor) -> Tensor:
            x = select(own, x.detach())
            return x - total(x.sum()) / total(own.sum().to(x)).clamp(min=1)

        together = centred(batch.step["advantage"]) * centred(seen["policy"].logp)
        share = together.masked_fill(~own, torch.finfo(together.dtype).min).softmax(1)
        return batch.with_steps({WEIGHT: select(own, (self.scale * share).clamp(max=self.most))})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        batch = batch if WEIGHT in batch.step else self.plan(seen, batch)
        own = batch.trained
        return placed(own, -batch.step[WEIGHT][own] * distribution(seen, "policy")[own].entropy())
