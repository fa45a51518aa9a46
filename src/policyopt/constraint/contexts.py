"""How much a policy's steps depend on what it is told: the same steps under two contexts of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.ops.masked import select
from policyopt.types import Batch

KEPT = "dependent"


@dataclass(frozen=True)
class ContextDependence(Loss):
    """The k3 estimate of KL(pi(. | context) || pi(. | the other context)) at the sampled steps (PAPO, arXiv
    2507.06448). A negative weight makes the policy depend on what the other context lacks.

    role: the log-probabilities under the other context; with a gradient if the role has one. bound: of the log ratio;
    most: of the estimate, beyond which a step has no gradient. share: only this share of an update's trained steps,
    those of the largest estimates, count (the others are 0). On-policy its expected gradient is that of the forward
    KL(other || pi), not of the KL that it estimates.
    """

    role: str = "blind"
    bound: float = 20.0
    most: float = 10.0
    share: float = 1.0

    formula = "min(exp(d) - d - 1, most), d = clamp(log pi_other - log pi, -bound, bound)"
    roles = named_by("role")

    def __post_init__(self) -> None:
        if self.bound <= 0 or self.most <= 0 or not 0 < self.share <= 1:
            raise CompositionError(
                f"need bound and most above 0 and 0 < share <= 1, got {self.bound}, {self.most} and {self.share}"
            )

    def estimate(self, seen: Seen, batch: Batch) -> Tensor:
        change = select(batch.trained, seen[self.role].logp - seen["policy"].logp).clamp(-self.bound, self.bound)
        return (torch.expm1(change) - change).clamp(max=self.most)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        if self.share == 1:
            return batch
        trained, found = batch.trained, self.estimate(seen, batch)
        count = int(self.share * int(trained.sum()) + 1e-9)
        order = torch.where(trained, found, -1.0).flatten().argsort(descending=True, stable=True)
        kept = torch.zeros_like(trained).flatten()
        kept[order[:count]] = True
        return batch.with_steps({KEPT: kept.view_as(trained)})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        found = self.estimate(seen, batch)
        return found if self.share == 1 else select(batch.step[KEPT], found)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"dependence": self.estimate(seen, batch)}


@dataclass(frozen=True)
class Surprise(Loss):
    """-log pi of the taken steps under a role's context: its mean estimates the entropy there. A positive weight makes
    it smaller; without a gradient of the role it is only watched."""

    role: str = "policy"

    formula = "-log pi_role"
    roles = named_by("role")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return -select(batch.trained, seen[self.role].logp)
