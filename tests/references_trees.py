"""Trees of rows again, as plain loops over Python lists: a row is its path, the list of its nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from policyopt.credit.anytime import BudgetRelative
from policyopt.reward.sets import SetWorth

Path = Sequence[int]


def paths(batch: Any) -> list[list[int]]:
    """The nodes of every row in order of time, without repetition."""
    found = []
    for b in range(len(batch)):
        path: list[int] = []
        for t in range(batch.steps):
            if batch.own[b, t] and int(batch.step["node"][b, t]) not in path:
                path.append(int(batch.step["node"][b, t]))
        found.append(path)
    return found


def value(paths: Sequence[Path], worth: Sequence[float], scored: Sequence[bool], prefix: Path) -> float | None:
    """The mean over the children's values of the node at the end of a prefix; None if nothing is known."""
    prefix = list(prefix)
    rows = [b for b in range(len(paths)) if list(paths[b][: len(prefix)]) == prefix]
    children = []
    for node in dict.fromkeys(paths[b][len(prefix)] for b in rows if len(paths[b]) > len(prefix)):
        children.append(value(paths, worth, scored, [*prefix, node]))
    children += [worth[b] for b in rows if len(paths[b]) == len(prefix) and scored[b]]
    known = [v for v in children if v is not None]
    return sum(known) / len(known) if known else None


def differences(
    paths: Sequence[Path], worth: Sequence[float], scored: Sequence[bool], epsilon: float | None = None
) -> list[list[float]]:
    """Of every row, a number per node of its path; epsilon: over the population deviation of siblings plus epsilon."""
    found = []
    for path in paths:
        out = []
        for depth in range(len(path)):
            here = value(paths, worth, scored, path[: depth + 1])
            above = value(paths, worth, scored, path[:depth])
            if here is None or above is None:
                out.append(0.0)
                continue
            if epsilon is None:
                out.append(here - above)
                continue
            near = {p[depth] for p in paths if list(p[:depth]) == list(path[:depth]) and len(p) > depth}
            values = [value(paths, worth, scored, [*path[:depth], node]) for node in near]
            known = [v for v in values if v is not None]
            mean = sum(known) / len(known)
            spread = math.sqrt(sum((v - mean) ** 2 for v in known) / len(known))
            out.append((here - above) / (spread + epsilon) if max(known) > min(known) else 0.0)
        found.append(out)
    return found


def nested(
    paths: Sequence[Path], worth: Sequence[float], scored: Sequence[bool], *, by_size: bool = True, skip: bool = False
) -> list[float]:
    out = []
    for b, path in enumerate(paths):
        total = weights = 0.0
        for depth in range(len(path) + 1):
            rows = [c for c in range(len(paths)) if scored[c] and list(paths[c][:depth]) == list(path[:depth])]
            values = [worth[c] for c in rows]
            if not scored[b] or (depth > 0 and len(rows) < 2) or (skip and max(values) == min(values)):
                continue
            weight = len(rows) if by_size else 1.0
            total += weight * (worth[b] - sum(values) / len(values))
            weights += weight
        out.append(total / weights if weights else 0.0)
    return out


def whitened(values: Sequence[float], ddof: int, epsilon: float) -> list[float]:
    mean = sum(values) / len(values)
    if max(values) == min(values):
        return [0.0] * len(values)
    return [
        (v - mean) / math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - ddof) + epsilon) for v in values
    ]


def budget_relative(score, prior, groups, baseline: str = "both") -> list[list[float]]:
    """score: a list of S numbers per thought."""
    count, out = len(prior), []

    def gain(q, s):
        return sum(prior[j] * q[j] for j in range(s, count))

    for q, group in zip(score, groups, strict=True):
        mine = [other for other, g in zip(score, groups, strict=True) if g == group]
        row = []
        for s in range(count):
            weights = [2.0**j for j in range(s)]
            before = sum(w * q[j] for j, w in enumerate(weights)) / sum(weights) if s else 0.0
            own = before * sum(prior[s:])
            shared = sum(gain(other, s) for other in mine) / len(mine) if len(mine) > 1 else 0.0
            mixed = {"both": s / count * own + (count - s) / count * shared, "own": own, "group": shared, "none": 0.0}
            row.append(gain(q, s) - mixed[baseline])
        out.append(row)
    return out


def set_worth(
    utility: Sequence[float],
    sets: Sequence[int],
    groups: Sequence[int],
    diversity: Callable[[list[int]], float],
    heat: float,
) -> list[tuple[float, float]]:
    """Of every row, D + [A]+ (w+ - 1) - [-A]+ (w- - 1) and [A]+ w+ - [-A]+ w- of its set. diversity: of a list of "
    "rows."""
    out = []
    for b in range(len(utility)):
        mine = [c for c in range(len(sets)) if sets[c] == sets[b]]
        worth = diversity(mine)
        others = {sets[c] for c in range(len(sets)) if groups[c] == groups[b]} - {sets[b]}
        rest = [diversity([c for c in range(len(sets)) if sets[c] == other]) for other in others]
        better = worth - sum(rest) / len(rest) if rest else 0.0
        credit = {c: worth - diversity([d for d in mine if d != c]) for c in mine}
        mean = sum(credit.values()) / len(mine)
        spread = math.sqrt(sum((x - mean) ** 2 for x in credit.values()) / (len(mine) - 1)) + 1e-4
        weight = {}
        for sign in (1, -1):
            e = {c: math.exp(sign * (x - mean) / spread / heat) for c, x in credit.items()}
            weight[sign] = len(mine) * e[b] / sum(e.values())
        gain, loss = max(better, 0.0), max(-better, 0.0)
        shared = worth + gain * (weight[1] - 1) - loss * (weight[-1] - 1)
        out.append((shared, gain * weight[1] - loss * weight[-1]))
    return out


REFERENCES: dict[type, Any] = {BudgetRelative: budget_relative, SetWorth: set_worth}
