"""Staying near recorded steps, and writing them again."""

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


@dataclass(frozen=True)
class WriteAgain(Loss):
    """How far the policy is from making a recorded row again (hindsight information matching, arXiv 2111.10364): the
    error of `CloneSteps` where steps are numbers, minus their log-probability where they are choices. Log-probabilities
    are those of the role `policy`, whose context may be the row's own code."""

    formula = "mean_d (mu(s)_d - a_d)^2 of steps that are numbers, -log pi_bt of choices"
    needs = "distributions at the states"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return CloneSteps()(seen, batch) if seen.taken().is_floating_point() else -seen["policy"].logp
