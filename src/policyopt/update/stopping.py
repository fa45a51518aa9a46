"""Reasons to leave out the rest of a round's updates: `(seen, batch) -> bool`, asked before every update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part, Seen
from policyopt.ops.divergence import k3
from policyopt.ops.masked import select
from policyopt.types import Batch


@dataclass(frozen=True)
class ApproximateKL(Part):
    """The policy is far enough from the old one: the mean over the minibatch's trained steps of k3, an estimate of
    KL(old || pi) from steps that `old` took, exceeds `limit` (Stable-Baselines3 has 1.5 times its target_kl)."""

    limit: float = 0.015

    formula = "mean (exp(log pi - log pi_old) - 1 - (log pi - log pi_old)) > limit"
    roles = ("old",)

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise CompositionError(f"the limit of the divergence must be above 0, not {self.limit}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        with torch.no_grad():
            change = select(batch.trained, seen["old"].logp - seen["policy"].logp)
            return k3(change).sum() / batch.trained.sum().clamp(min=1) > self.limit
