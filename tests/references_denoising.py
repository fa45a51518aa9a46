"""Losses of denoising models that ask for more than log-probabilities, again as loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from policyopt.constraint.standard import NearStandardNormal
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.matching import DenoisingRegression
from policyopt.objective.negative_aware import NegativeAware
from policyopt.objective.self_play import DenoisingPreference


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


def clean_error(u: list[float], target: list[float], scale: float) -> tuple[float, list[float]]:
    """mean_d e^2 / mean_d |e|, e = scale (u - target), and its derivative by u with the denominator held fixed."""
    e = [scale * (a - b) for a, b in zip(u, target, strict=True)]
    size = max(sum(abs(x) for x in e) / len(e), 1e-5)
    return sum(x * x for x in e) / len(e) / size, [2 * x * scale / len(e) / size for x in e]


def negative_aware(
    said: list[float],
    lagged: list[float],
    reference: list[float],
    target: list[float],
    clean_per_error: float,
    share: float,
    options: tuple[float, float, float],
) -> tuple[float, list[float]]:
    """DiffusionNFT's loss at one point and its derivative by the trained prediction; options b, scale, pull."""
    b, scale, pull = options
    good = [b * v + (1 - b) * o for v, o in zip(said, lagged, strict=True)]
    bad = [(1 + b) * o - b * v for v, o in zip(said, lagged, strict=True)]
    plus, by_plus = clean_error(good, target, clean_per_error)
    minus, by_minus = clean_error(bad, target, clean_per_error)
    gap = [v - r for v, r in zip(said, reference, strict=True)]
    value = scale * (share * plus + (1 - share) * minus) / b + pull * sum(g * g for g in gap) / len(gap)
    slope = [
        scale * (share * p * b - (1 - share) * m * b) / b + 2 * pull * g / len(gap)
        for p, m, g in zip(by_plus, by_minus, gap, strict=True)
    ]
    return value, slope


def preference(
    ours: list[list[float]], theirs: list[list[float]], targets: list[list[float]], beta: float, *, flipped: bool
) -> tuple[float, list[float], list[float]]:
    """-log sigma(-beta (d_w - f d_r)) of one pair at one point, and its derivatives by our two predictions. Every
    argument holds the chosen's numbers and the rejected's."""

    def squares(said: list[float], target: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(said, target, strict=True))

    gains = [squares(o, t) - squares(r, t) for o, r, t in zip(ours, theirs, targets, strict=True)]
    sign = float((gains[0] < 0) - (gains[0] > 0)) if flipped else 1.0
    logit = beta * (gains[0] - sign * gains[1])
    slope = beta / (1 + math.exp(-logit))
    value = max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))
    by = [
        [factor * slope * 2 * (x - y) for x, y in zip(o, t, strict=True)]
        for factor, o, t in zip((1.0, -sign), ours, targets, strict=True)
    ]
    return value, by[0], by[1]


REFERENCES: dict[type, Callable[..., Any]] = {
    DenoisingRegression: regression,
    DenoisingPreference: preference,
    NegativeAware: negative_aware,
    NearStandardNormal: near_standard,
    StandardisedAdvantages: standardised,
}
