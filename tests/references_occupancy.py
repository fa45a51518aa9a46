"""Occupancies and what is charged for leaving them, again as plain loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policyopt.objective.ratio import Authorship


def authorship(odds: float, author: int) -> tuple[float, float]:
    """softplus(-d) for author 0, softplus(d) for others, and its derivative by d."""
    sign = -1.0 if author == 0 else 1.0
    return math.log(1 + math.exp(sign * odds)), sign / (1 + math.exp(-sign * odds))


def chi_square(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * a / b for a, b in zip(p, q, strict=True) if a > 0) - 1


def root_charges(odds: Sequence[float], trim: float) -> list[float]:
    """(exp d - 1) / sqrt(trimmed mean), exp d - 1 where that is not above 0."""
    plain = [math.exp(d) - 1 for d in odds]
    cut = math.floor(trim * len(plain))
    middle = sorted(plain)[cut : len(plain) - cut]
    mean = sum(middle) / len(middle)
    return [c / math.sqrt(mean) for c in plain] if mean > 0 else plain


def visits(move, rule, start, steps: int) -> list[list[float]]:
    """(S, A) share of steps in a state with an action, of episodes of `steps` steps."""
    states, actions = len(rule), len(rule[0])
    here, found = list(start), [[0.0] * actions for _ in range(states)]
    for _ in range(steps):
        there = [0.0] * states
        for s in range(states):
            for a in range(actions):
                found[s][a] += here[s] * rule[s][a] / steps
                for n in range(states):
                    there[n] += here[s] * rule[s][a] * move[s][a][n]
        here = there
    return found


REFERENCES = {Authorship: authorship}
