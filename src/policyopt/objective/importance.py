"""Weights of terms by how far the policy of the trainer is from the sampler's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Seen
from policyopt.objective.surrogates import TruncatedImportance, exact
from policyopt.ops.masked import masked_sum
from policyopt.types import Batch


@dataclass(frozen=True)
class TruncatedSequenceImportance(TruncatedImportance):
    """A term weight: the importance of whole rows, min(prod_t pi_old / pi_behaviour, cap) at each of their steps,
    without gradient.

    With a reward of the whole row it is unbiased without a cap, as the weights of steps are only to first order. Its
    logarithm adds up over steps, so the longer the row, the larger the differences of rounding in it.
    """

    formula = "min(prod_t pi_old / pi_behaviour, cap)"

    def __call__(self, seen: Seen, batch: Batch) -> Float[Tensor, "B T"]:
        with torch.no_grad():
            difference = exact(seen["old"], "old") - batch.step["behaviour"]
            row = masked_sum(difference, batch.trained).exp().clamp(max=self.cap)
            return row[:, None].expand(batch.trained.shape)
