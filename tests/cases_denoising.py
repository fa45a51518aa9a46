"""Losses that denoising methods brought."""

import math

from cases import Case, by_step
from policyopt.objective.clamped import ClampedSurrogate


def _clamped(logp: float, old: float, advantage: float) -> tuple[float, float]:
    ratio = math.exp(logp - old)
    inside = 0.7 <= ratio <= 1.3
    return -advantage * min(1.3, max(0.7, ratio)), -advantage * ratio if inside else 0.0


CASES = {"clamped": Case(ClampedSurrogate(0.3), by_step(_clamped, "policy old", "advantage"))}
