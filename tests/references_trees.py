"""Trees of rows again, as plain loops over Python lists: a row is its path, the list of its nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


REFERENCES: dict[type, Any] = {}
