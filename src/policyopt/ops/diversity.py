"""How different the rows of a task are, as sequences of choices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def distinct_share(rows: Sequence[Sequence[int]], span: int) -> float:
    """Different runs of `span` symbols among all of them (distinct-n), in 0..1; 0 if no row is that long."""
    runs = [tuple(row[i : i + span]) for row in rows for i in range(len(row) - span + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Least number of insertions, deletions and replacements that turn a into b (Levenshtein)."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        now = [i]
        for j, y in enumerate(b, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1]


def edit_diversity(rows: Sequence[Sequence[int]]) -> float:
    """Mean over pairs of rows of their edit distance over the length of the longer, in 0..1; 0 without a pair."""
    pairs = list(itertools.combinations(rows, 2))
    shares = [edit_distance(a, b) / max(len(a), len(b), 1) for a, b in pairs]
    return sum(shares) / len(shares) if shares else 0.0
