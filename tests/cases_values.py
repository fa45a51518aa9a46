"""Cases of likelihoods weighted by advantages."""

import math

from cases import Case, by_step
from policyopt.objective.weighted import AdvantageWeighted


def weighted(l, a, temperature, cap):  # noqa: E741
    weight = min(math.exp(a / temperature), cap)
    return -weight * l, -weight


CASES = {
    "advantage_weighted": Case(
        AdvantageWeighted(0.8, 2.5),
        by_step(lambda l, a: weighted(l, a, 0.8, 2.5), "policy", "advantage"),  # noqa: E741
    ),
}
