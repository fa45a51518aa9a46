"""Numbers that move from one value to another while a stage is trained."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "cosine"]


def progress(done: int, total: int) -> float:
    """0 in the first of `total` rounds, 1 in the last and after it; 1 where there is one round only."""
    return min(1.0, done / (total - 1)) if total > 1 else 1.0


def ramp(start: float, final: float, share: float, shape: Shape = "linear") -> float:
    """From `start` at share 0 to `final` at share 1: on a line, or final + (start - final) (1 + cos(pi share)) / 2."""
    if shape == "cosine":
        return final + 0.5 * (start - final) * (1 + math.cos(math.pi * share))
    return start + share * (final - start)
