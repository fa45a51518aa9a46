"""Turns and what they are worth, again as plain loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policyopt.objective.offline import BehaviourConstrained
from policyopt.objective.turns import OverTurns
from policyopt.reward.weighted_tests import WeightedTests
from policyopt.selection.turns import TurnsAsRows


def turn_numbers(turn: Sequence[int], own: Sequence[bool]) -> list[list[int]]:
    """The steps of every turn of a row, in order of time."""
    found: dict[int, list[int]] = {}
    for t, (number, mine) in enumerate(zip(turn, own, strict=True)):
        if mine:
            found.setdefault(number, []).append(t)
    return sorted(found.values())


def compared(worth, ids, scored, *, scaled: bool, ddof: int = 1, epsilon: float = 1e-6) -> list[float]:
    """Worth less the mean of the scored ones of an id, perhaps over their deviation."""
    out = []
    for k in range(len(worth)):
        pool = [w for w, i, s in zip(worth, ids, scored, strict=True) if i == ids[k] and s]
        if not scored[k] or len(pool) < 2 or max(pool) == min(pool):
            out.append(0.0)
            continue
        mean = sum(pool) / len(pool)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in pool) / (len(pool) - ddof))
        out.append((worth[k] - mean) / (deviation + epsilon if scaled else 1.0))
    return out


def weights(rates: Sequence[float], slope: float, width: float | None, delta: float) -> list[float]:
    out = []
    for rate in rates:
        if width is None:
            crowd = 1.0
        elif width == 0:
            crowd = sum(1.0 for other in rates if other == rate)
        else:
            crowd = sum(math.exp(-((rate - other) ** 2) / (2 * width * width)) for other in rates)
        out.append(math.exp(-slope * rate) / (crowd + delta))
    return out


def weighted_tests(passed, groups, slope: float, width: float | None, delta: float) -> list[float]:
    """passed: a list of 0 and 1 per turn."""
    out = []
    for k, row in enumerate(passed):
        mine = [p for p, g in zip(passed, groups, strict=True) if g == groups[k]]
        rates = [sum(column) / len(mine) for column in zip(*mine, strict=True)]
        out.append(sum(w * p for w, p in zip(weights(rates, slope, width, delta), row, strict=True)))
    return out


def rows_of_turns(turns: Sequence[Sequence[int]], own: Sequence[Sequence[bool]]) -> list[tuple[int, list[int]]]:
    """(row, steps) of every turn."""
    return [(b, steps) for b in range(len(turns)) for steps in turn_numbers(turns[b], own[b])]


def over_turns(logp: Sequence[float], turn: Sequence[int], trained: Sequence[bool]) -> list[float]:
    """The mean over the trained steps of every step's turn."""
    out = []
    for t in range(len(logp)):
        mine = [x for x, n, m in zip(logp, turn, trained, strict=True) if n == turn[t] and m]
        out.append(sum(mine) / len(mine) if trained[t] else 0.0)
    return out


def behaviour_constrained(
    logp: Sequence[float], behaviour: Sequence[float], good: Sequence[bool], advantage: float, tau: float, weight: float
) -> list[tuple[float, float]]:
    """Value and derivative of every trained step of a row."""
    a = advantage - tau * (sum(logp) - sum(behaviour))
    found = []
    for x, fine in zip(logp, good, strict=True):
        w = weight if a < 0 and fine else 1.0
        found.append((-w * a * x, -w * a))
    return found


REFERENCES = {
    WeightedTests: weighted_tests,
    TurnsAsRows: rows_of_turns,
    OverTurns: over_turns,
    BehaviourConstrained: behaviour_constrained,
}
