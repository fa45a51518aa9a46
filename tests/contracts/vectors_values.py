"""Cases of likelihoods weighted by advantages."""

import math

from vector_cases import LOGP
from vector_losses import step_cases


def weighted(logp, advantage, temperature=1.0, cap=20.0):
    """Weights far above the cap do not overflow on the way."""
    weight = cap if advantage / temperature > math.log(cap) else math.exp(advantage / temperature)
    return -weight * logp, -weight


def cases():
    ranges = {"logprobs": LOGP, "advantages": (-2.0, 4.0)}
    return [
        *step_cases("objective", "advantage_weighted", weighted, ranges),
        *step_cases(
            "objective",
            "advantage_weighted",
            lambda x, a: weighted(x, a, 0.05, 100.0),
            {**ranges, "advantages": (-0.5, 60.0)},
            {"temperature": 0.05, "cap": 100.0},
        )[:2],
        *step_cases(
            "objective",
            "advantage_weighted",
            lambda x, a: weighted(x, a, 3.0, 1.5),
            ranges,
            {"temperature": 3.0, "cap": 1.5},
        )[:2],
    ]
