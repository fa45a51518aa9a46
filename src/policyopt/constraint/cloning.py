"""Staying near recorded steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed
from policyopt.types import Batch


@dataclass(frozen=True)
class CloneSteps(Loss):
    """Squared distance of the policy's mode to the step that was taken, mean over dimensions (TD3+BC, arXiv
    2106.06860, eq. 3; the paper's code averages over dimensions). For policies without a density."""

    formula = "mean_d (mu(s)_d - a_d)^2"
    needs = "distributions at the states"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        mode, taken = seen.at("policy").mode(), seen.taken()
        if not taken.is_floating_point():
            raise CompositionError(
                "the distance to recorded steps needs steps that are numbers, not choices; use NegativeLogLikelihood"
            )
        own = batch.trained
        return placed(own, ((mode[own] - taken[own]) ** 2).mean(-1))
