"""Entropy that is asked for only where there is too little of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed
from policyopt.types import Batch


@dataclass(frozen=True)
class EntropyBelowTarget(Loss):
    """A bonus for the entropy of every step that falls with the entropy and ends at `target` nats (Light-IF's TEA-RL,
    arXiv 2508.03178). Role policy needs `full=True`."""

    target: float = 0.3

    formula = "-max(0, (target - sg(H_bt)) / target) H_bt, H_bt = -sum_v pi(v) log pi(v)"

    def __post_init__(self) -> None:
        if self.target <= 0:
            raise CompositionError(f"the target of an entropy must be above 0, not {self.target}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        dist = seen["policy"].dist
        if dist is None:
            raise CompositionError(
                "this bonus needs the policy's whole distribution; declare roles={'policy': Role(grad=True, full=True)}"
            )
        own = batch.trained
        entropy = dist[own].entropy()
        strength = ((self.target - entropy.detach()) / self.target).clamp(min=0)
        return placed(own, -strength * entropy)
