"""What the loops say of shares of success."""

from __future__ import annotations

import math

from policyopt.objective.successors import SuccessCrossEntropy


def cross_entropy(logit: float, share: float) -> tuple[float, float]:
    p = 1 / (1 + math.exp(-logit))
    return -share * math.log(p) - (1 - share) * math.log(1 - p), p - share


REFERENCES = {SuccessCrossEntropy: cross_entropy}
