"""Preference losses as plain loops over Python numbers, with derivatives by hand. Imports nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

Pair = tuple[float, float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def said(
    gaps: Sequence[float],
    weights: Sequence[float],
    *,
    beta: float = 0.1,
    mean: bool = False,
    discount: float = 1.0,
    divergence: str = "reverse_kl",
) -> tuple[float, list[float]]:
    """s of a row from its log-ratios step by step, and the derivative by each."""
    shares = [w * discount**k / (len(gaps) if mean else 1) for k, w in enumerate(weights)]
    total = sum(w * x for w, x in zip(shares, gaps, strict=True))
    if divergence == "forward_kl":
        value, slope = -math.exp(-total), math.exp(-total)
    elif divergence == "jensen_shannon":
        value, slope = math.log(2) - math.log(1 + math.exp(-total)), 1 / (1 + math.exp(total))
    else:
        value, slope = total, 1.0
    return beta * value, [beta * slope * w for w in shares]


def link(z: float, kind: str) -> Pair:
    """Loss of a margin and its derivative."""
    if kind == "hinge":
        return (1 - z, -1.0) if z < 1 else (0.0, 0.0)
    if kind == "squared":
        return (z - 0.5) ** 2, 2 * (z - 0.5)
    if kind == "exponential":
        return math.exp(-z), -math.exp(-z)
    if kind == "discovered":
        share = sigmoid(z / 0.05)
        slope = share * (1 - share) / 0.05
        value = softplus(-z) * (1 - share) + math.exp(-z) * share
        return value, -sigmoid(-z) * (1 - share) - softplus(-z) * slope - math.exp(-z) * share + math.exp(-z) * slope
    return softplus(-z), -sigmoid(-z)


def margin_loss(z: float, kind: str, wrong: float, unbiased: bool) -> Pair:
    if kind == "exo":
        p = sigmoid(z)
        value = p * (math.log(p) - math.log(1 - wrong)) + (1 - p) * (math.log(1 - p) - math.log(wrong))
        return value, p * (1 - p) * (math.log(p / (1 - p)) - math.log((1 - wrong) / wrong))
    (right, up), (flipped, down) = link(z, kind), link(-z, kind)
    if unbiased:
        scale = 1 - 2 * wrong
        return ((1 - wrong) * right - wrong * flipped) / scale, ((1 - wrong) * up + wrong * down) / scale
    return (1 - wrong) * right + wrong * flipped, (1 - wrong) * up - wrong * down


def sides(w: float, l: float, kind: str) -> tuple[float, float, float]:  # noqa: E741
    """Loss of two values and its derivatives by them."""
    p, q = sigmoid(w), sigmoid(l)
    if kind == "nca":
        return softplus(-w) + 0.5 * (softplus(w) + softplus(l)), p - 1 + 0.5 * p, 0.5 * q
    if kind == "apo_zero":
        return 1 - p + q, -p * (1 - p), q * (1 - q)
    if kind == "sppo":
        return (w - 0.5) ** 2 + (l + 0.5) ** 2, 2 * (w - 0.5), 2 * (l + 0.5)
    both = sigmoid(w - l)
    return p + 1 - both, p * (1 - p) - both * (1 - both), both * (1 - both)


SIDES = ("nca", "apo_zero", "apo_down", "sppo")


def pair(
    w: float,
    l: float,  # noqa: E741
    *,
    beta: float = 0.1,
    link: str = "logistic",
    wrong: float = 0.0,
    unbiased: bool = False,
    rejected: float = 1.0,
    target: float = 0.0,
) -> tuple[float, float, float]:
    """Loss of a pair from what its sides say, and the derivatives by both."""
    scale = 1 / beta**2 if link in ("squared", "sppo") else 1.0
    if link in SIDES:
        value, up, down = sides(w, l, link)
        return scale * value, scale * up, scale * down
    value, slope = margin_loss(w - rejected * l - target, link, wrong, unbiased)
    return scale * value, scale * slope, -rejected * scale * slope


def rows(
    s: Sequence[float],
    right: Sequence[bool],
    *,
    link: str = "logistic",
    point: float = 0.0,
    balance: bool = False,
    good: float = 1.0,
    bad: float = 1.0,
) -> list[Pair]:
    """Loss and derivative of single rows against a point that depends on all of them."""
    centre = 0.0
    if link == "kto":
        centre = max(0.0, sum(s) / len(s))
    elif balance:
        parts = [[x for x, r in zip(s, right, strict=True) if r is side] for side in (True, False)]
        means = [sum(part) / len(part) for part in parts if part]
        centre = sum(means) / len(means)
    found = []
    for x, r in zip(s, right, strict=True):
        sign, weight = (1, good) if r else (-1, bad)
        z = sign * (x - point - centre)
        p = sigmoid(z)
        value, slope = (1 - p, -p * (1 - p)) if link == "kto" else (softplus(-z), -(1 - p))
        found.append((weight * value, weight * sign * slope))
    return found


# -- lists: scores s and labels of one list, the best first ---------------------------------------------------------
def places(s: Sequence[float], order: Sequence[int]) -> list[int]:
    """Place of every entry by decreasing score; of equals the one with the smaller `order` comes first."""
    ranked = sorted(range(len(s)), key=lambda k: (-s[k], order[k]))
    return [ranked.index(k) + 1 for k in range(len(s))]


def pairs_of_list(
    s, label, order, *, kind="logistic", rejected=1.0, gain=False, averaged=False, strength=None
) -> tuple[float, list[float]]:
    value, slopes, count = 0.0, [0.0] * len(s), 0
    place = places(s, order)
    for i in range(len(s)):
        for j in range(len(s)):
            if (strength is None and label[i] <= label[j]) or (strength is not None and i >= j):
                continue
            count += 1
            weight = 1.0
            if gain:
                discount = [1 / math.log(1 + place[k]) for k in (i, j)]
                weight = abs(2 ** label[i] - 2 ** label[j]) * abs(discount[0] - discount[1])
            for a, b, share in ((i, j, 1.0 if strength is None else strength[i][j]),) + (
                () if strength is None else ((j, i, 1 - strength[i][j]),)
            ):
                one, slope = link(s[a] - rejected * s[b], kind)
                value += weight * share * one
                slopes[a] += weight * share * slope
                slopes[b] -= weight * share * slope * rejected
    scale = 1 / max(count, 1) if averaged else 1.0
    return scale * value, [scale * x for x in slopes]


def ranked(s, label, order=None, *, gaps=True) -> tuple[float, list[float]]:
    value, slopes = 0.0, [0.0] * len(s)
    for k in range(len(s) - 1):
        factor = [label[k] - label[i] if gaps else 1.0 for i in range(k, len(s))]
        factor[0] = max(factor[1:]) if gaps else 1.0
        x = [f * s[k + i] for i, f in enumerate(factor)]
        top = max(x)
        whole = sum(math.exp(y - top) for y in x)
        value += top + math.log(whole) - x[0]
        for i, f in enumerate(factor):
            slopes[k + i] += f * (math.exp(x[i] - top) / whole - (i == 0))
    return value, slopes


def labelled(s, label, order=None, *, kind="softmax") -> tuple[float, list[float]]:
    if kind == "pointwise":
        value = sum(y * softplus(-x) + (1 - y) * softplus(x) for x, y in zip(s, label, strict=True))
        return value, [sigmoid(x) - y for x, y in zip(s, label, strict=True)]
    top, whole = max(s), sum(label)
    if whole == 0:
        return 0.0, [0.0] * len(s)
    normaliser = sum(math.exp(x - top) for x in s)
    share = [math.exp(x - top) / normaliser for x in s]
    value = -sum(y / whole * math.log(p) for y, p in zip(label, share, strict=True))
    return value, [p - y / whole for p, y in zip(share, label, strict=True)]


def imitation(logp: Sequence[float], size: int) -> tuple[list[float], float]:
    weight = (size - 1) ** 2
    return [-weight * x for x in logp], -weight
