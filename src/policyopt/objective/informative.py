"""Which recorded steps still teach something: a mask for terms that imitate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part, Seen
from policyopt.types import Batch


@dataclass(frozen=True)
class InformativeSteps(Part):
    """A term's mask: the `share` of all trained steps of the update with the largest -log pi - entropy H (Light-IF's
    Entropy-SFT, arXiv 2508.03178, as released), at least one; among equals the lower row, then the earlier step. What
    the policy already says, or is rightly unsure of, is not sharpened. share 1: all trained steps."""

    share: float = 0.8
    entropy: float = 0.8

    formula = "1 for the floor(share n) steps of largest -log pi_bt - entropy H_bt"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CompositionError(f"a share lies above 0 and up to 1, not {self.share}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        scores, own = seen["policy"], batch.trained
        if scores.entropy is None:
            raise CompositionError("this mask needs the policy's entropies, which its scores do not give")
        surplus = (-scores.logp - self.entropy * scores.entropy)[own].detach()
        order = surplus.argsort(descending=True, stable=True)
        stays = torch.zeros(len(surplus), dtype=torch.bool, device=surplus.device)
        stays[order[: max(1, math.floor(self.share * len(surplus) + 1e-9))]] = True
        return torch.zeros_like(own).masked_scatter(own, stays)
