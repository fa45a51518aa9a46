"""Losses on preference pairs. Values sit on the chosen row, (B,); rows of a pair must stay together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import masked_sum
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.types import Batch


def pair_logistic(
    difference: Float[Tensor, "*shape"], beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, "*shape"]:
    """-(1 - e) log sigma(beta D) - e log sigma(-beta D); D = rho(chosen) - rho(rejected)."""
    margin = beta * difference
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


@dataclass(frozen=True)
class PairLogistic(Loss):
    """DPO (arXiv 2305.18290, eq. 7): rho is the *sum* over a row's steps of log pi - log pi_reference.

    label_smoothing e: conservative DPO, labels wrong with probability e. Equal at policy = reference: log 2.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    formula = "-log sigma(beta (rho(y_w) - rho(y_l))), rho(y) = sum_t (log pi - log pi_ref)"

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 <= self.label_smoothing < 0.5:
            raise CompositionError(
                f"need beta > 0 and 0 <= label_smoothing < 0.5, got {self.beta} and {self.label_smoothing}"
            )

    reads = ("pair", "rank")
    roles = ("reference",)

    def difference(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """rho(chosen) - rho(rejected) per pair, and the chosen rows."""
        rho = masked_sum(seen["policy"].logp - seen["reference"].logp, batch.trained)
        chosen, rejected = pair_rows(batch).T
        return rho[chosen] - rho[rejected], chosen

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        difference, chosen = self.difference(seen, batch)
        return at_rows(pair_logistic(difference, self.beta, self.label_smoothing), chosen, len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        difference, chosen = self.difference(seen, batch)
        # A tie is not a win: at policy = reference the accuracy is one half.
        accuracy = 0.5 * (1 + torch.sign(difference))
        return {
            "margin": at_rows(self.beta * difference, chosen, len(batch)),
            "accuracy": at_rows(accuracy, chosen, len(batch)),
        }
