"""Losses of denoising models that ask for more than log-probabilities, again as loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from policyopt.constraint.standard import NearStandardNormal
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.matching import DenoisingRegression


def regression(prediction: list, target: list) -> tuple[float, list]:
    """mean_p mean_d (u - target)^2 of one row, and its derivative by u. (P, D) lists."""
    points, dims = len(prediction), len(prediction[0])
    value = sum((u - t) ** 2 for us, ts in zip(prediction, target, strict=True) for u, t in zip(us, ts, strict=True))
    slope = [
        [2 * (u - t) / points / dims for u, t in zip(us, ts, strict=True)]
        for us, ts in zip(prediction, target, strict=True)
    ]
    return value / points / dims, slope


def near_standard(mean: list[float], std: list[float]) -> tuple[float, list[float], list[float]]:
    """mean_d (m^2 + (s - 1)^2) and its derivatives by m and s."""
    value = sum(m**2 + (s - 1) ** 2 for m, s in zip(mean, std, strict=True)) / len(mean)
    return value, [2 * m / len(mean) for m in mean], [2 * (s - 1) / len(std) for s in std]


def quantile(numbers: list[float], q: float) -> float:
    """With linear interpolation between order statistics."""
    held = sorted(numbers)
    place = q * (len(held) - 1)
    low = math.floor(place)
    high = min(low + 1, len(held) - 1)
    return held[low] + (place - low) * (held[high] - held[low])


def standardised(advantage: list[float], discount: list[float], low: float, high: float) -> list[float]:
    """(A - mean) / std_s, clamped to quantiles, then discounted."""
    mean = sum(advantage) / len(advantage)
    std = math.sqrt(sum((a - mean) ** 2 for a in advantage) / (len(advantage) - 1))
    z = [(a - mean) / (std + 1e-8) for a in advantage]
    floor, top = quantile(z, low), quantile(z, high)
    return [min(top, max(floor, a)) * d for a, d in zip(z, discount, strict=True)]


REFERENCES: dict[type, Callable[..., Any]] = {
    DenoisingRegression: regression,
    NearStandardNormal: near_standard,
    StandardisedAdvantages: standardised,
}
