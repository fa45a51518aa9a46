"""Agreement of a policy with held-out preferences: no sampling, no verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policyopt.evaluation.statistics import Interval, proportion_interval

CHUNK = 256  # pairs that are scored together; a bound on memory only


@dataclass(frozen=True)
class Agreement:
    """accuracy: share of pairs whose chosen answer has the higher log-probability, summed over its tokens and EOS."""

    accuracy: Interval
    pairs: int

    def summary(self) -> dict[str, Any]:
        """The estimate under its name in summary.json, and its interval."""
        found = self.accuracy
        return {
            "preference_accuracy": found.estimate,
            "preference_accuracy_interval": [found.low, found.high],
            "pairs": self.pairs,
        }


def agreement(policy: Any, world: Any) -> Agreement:
    """Over every pair of a world; equal log-probabilities agree with nobody."""
    device = next(policy.parameters()).device
    agreed = 0
    for ids in torch.arange(world.size, device=device).split(CHUNK):
        rows = world.recorded_pairs(world.tasks(ids))
        with torch.no_grad():
            scored = policy.score(rows).logp.double()
        chosen, rejected = scored.where(rows.own, 0).sum(1).view(-1, 2).unbind(1)
        agreed += int((chosen > rejected).sum())
    return Agreement(proportion_interval(agreed, world.size), world.size)
