"""Cases of surrogates that the uncertainty of steps modulates."""

import math

import loops
from cases import Case, by_step
from policyopt.objective.heterogeneous import HeterogeneousSurrogate


def heterogeneous(l, o, a, h, low, high, dual, amount):  # noqa: E741
    inside = 1 - low / 2 < math.exp(l - o) < 1 + high / 2
    return loops.clipped(l, o, a * (1 + amount * h) if (h > 0) != inside else a, low, high, dual)


CASES = {
    # Any column of numbers may stand for the score.
    "heterogeneous": Case(
        HeterogeneousSurrogate(0.4, 0.6, 1.9, amount=0.3, score="value"),
        by_step(lambda l, o, a, h: heterogeneous(l, o, a, h, 0.4, 0.6, 1.9, 0.3), "policy old", "advantage", "value"),  # noqa: E741
    ),
}
