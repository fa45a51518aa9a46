"""Policy gradients on recorded rows that are held near who wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.surrogates import row_advantage
from policyopt.ops.masked import masked_sum, select
from policyopt.types import Batch

GOOD = "good"
"""Step column: 1 on steps that are right although the row may be wrong."""


@dataclass(frozen=True)
class BehaviourConstrained(Loss):
    """-w sg(A) log pi, A = advantage - tau (log pi - log mu of the whole row): the gradient of E[R] - tau KL(pi || mu)
    on rows of mu (BCPG, arXiv 2505.14403). Steps that were judged good in rows of negative A weigh `good` instead of 1:
    below 0 they are rewarded. Sum over a row's steps: average it with `SequenceSum`."""

    tau: float = 0.001
    good: float = 0.5

    needs = "steps that were judged"
    formula = "-w_bt sg(A_b - tau (log pi_b - log mu_b)) log pi_bt, w = good on good steps of rows below 0, else 1"
    reads = ("advantage", GOOD)
    roles = ("behaviour",)

    def __post_init__(self) -> None:
        if self.tau < 0 or not -1 <= self.good <= 1:
            raise CompositionError(f"need tau of 0 or more and a weight in -1..1, got {self.tau} and {self.good}")

    def weighted(self, seen: Seen, batch: Batch) -> Tensor:
        """(B, T) w A, without gradient."""
        # Asked for with its gradient, as the loss reads the same scores, and detached here.
        policy = seen["policy"].logp.detach()
        advantage = row_advantage(batch).detach()
        if self.tau:
            drift = select(batch.trained, policy - seen["behaviour"].logp)
            if bool(drift.isnan().any()):
                raise CompositionError(
                    "the distance from who wrote recorded rows needs their log-probabilities, and some rows have none "
                    "(behaviour is nan); record them with the rows, or set tau=0"
                )
            advantage = advantage - self.tau * masked_sum(drift, batch.trained)
        spared = (advantage < 0)[:, None] & (batch.step[GOOD] > 0)
        return torch.where(spared, self.good, 1.0).to(advantage.dtype) * advantage[:, None]

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return -self.weighted(seen, batch) * select(batch.trained, seen["policy"].logp)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"spared": ((batch.step[GOOD] > 0) & (row_advantage(batch) < 0)[:, None]).to(batch.step["advantage"])}
