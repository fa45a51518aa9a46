"""What the loops say of losses of whole distributions that draw steps of their own."""

from __future__ import annotations

import math

from policyopt.objective.one_step import OneStepRollout
from support import Grid


class Chooser(Grid):
    """A grid of logits that says which choices were taken."""

    def __init__(self, logits):
        super().__init__(logits=logits)

    def taken(self, batch):
        return batch.step["_step"]


def one_step(logits: list[float], taken: int, shares: list[float], wrong: float) -> tuple[float, list[float]]:
    """-sum_a share_a R(a) log pi(a) and its derivative by the logits."""
    top = max(logits)
    whole = top + math.log(sum(math.exp(x - top) for x in logits))
    weight = [s * (1.0 if a == taken else wrong) for a, s in enumerate(shares)]
    value = -sum(w * (x - whole) for w, x in zip(weight, logits, strict=True))
    return value, [-(w - sum(weight) * math.exp(x - whole)) for w, x in zip(weight, logits, strict=True)]


REFERENCES = {OneStepRollout: one_step}
