"""Distillation of what preferences imply: a teacher put together from models that were trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed
from policyopt.seen import distribution
from policyopt.types import Batch, Categorical

_LEAST = 1e-3  # of the extrapolation, so that it can be divided by (released code)


@dataclass(frozen=True)
class ExtrapolatedTeacher(Loss):
    """AlignDistil (arXiv 2503.02832): reverse KL to softmax(z_anchor + w (z_preferred - z_against)), times beta / w,
    which state by state has the gradient of RLHF with the reward beta (log p_preferred - log p_against) and a KL
    penalty of beta / w to the anchor.

    adaptive: w_t = scale d_t + 1e-3, d_t the L1 distance of the preferred model to `against` at the state; else w is
    `scale`. anchor and against both the reference: the paper's form with one DPO model.
    """

    beta: float = 0.1
    scale: float = 15.0
    adaptive: bool = True
    preferred: str = "preferred"
    against: str = "reversed"
    anchor: str = "preferred"

    formula = (
        "beta / w_t KL(pi || softmax(z_anchor + w_t (z_preferred - z_against))), "
        "w_t = scale sum_v |p_preferred - p_against| + 1e-3"
    )

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.scale <= 0:
            raise CompositionError(f"need beta > 0 and scale > 0, got {self.beta} and {self.scale}")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.preferred, self.against, self.anchor)))

    def _said(self, seen: Seen, role: str, own: Tensor) -> Tensor:
        found = distribution(seen, role)
        if not isinstance(found, Categorical):
            raise CompositionError(f"logits are combined: {role!r} must be a categorical distribution")
        return found.logp[own]

    def extrapolation(self, preferred: Tensor, against: Tensor) -> Tensor:
        """(n,) from log-probabilities (n, V)."""
        if not self.adaptive:
            return torch.full_like(preferred[:, 0], self.scale)
        return self.scale * (preferred.exp() - against.exp()).abs().sum(-1) + _LEAST

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        own = batch.trained
        with torch.no_grad():
            preferred, against, anchor = (
                self._said(seen, role, own) for role in (self.preferred, self.against, self.anchor)
            )
            weight = self.extrapolation(preferred, against)
            teacher = Categorical.of(anchor + weight[:, None] * (preferred - against))
        student = distribution(seen, "policy")
        return placed(own, self.beta / weight * student[own].kl(teacher))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        own = batch.trained
        weight = self.extrapolation(self._said(seen, self.preferred, own), self._said(seen, self.against, own))
        return {"extrapolation": placed(own, weight)}
