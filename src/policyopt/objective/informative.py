"""Which recorded steps still teach something: a mask for terms that imitate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part, Seen
from policyopt.types import Batch


@dataclass(frozen=True)
class InformativeSteps(Part):
    """A term's mask: trained steps whose negative log-likelihood or whose entropy is at least that quantile of all
    trained steps of the update (Light-IF's Entropy-SFT, arXiv 2508.03178). What the policy already says surely is not
    sharpened further. quantile 0: all trained steps."""

    quantile: float = 0.5

    formula = "1[-log pi_bt >= Q(-log pi) or H_bt >= Q(H)], Q: the quantile over trained steps"

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise CompositionError(f"a quantile lies in 0..1, not {self.quantile}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        scores, own = seen["policy"], batch.trained
        entropy = scores.entropy
        if entropy is None:
            raise CompositionError("this mask needs the policy's entropies, which its scores do not give")
        kept = torch.zeros_like(own)
        if own.any():
            for said in (-scores.logp, entropy):
                kept |= own & (said >= said[own].quantile(self.quantile))
        return kept
