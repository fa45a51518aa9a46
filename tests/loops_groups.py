"""Losses of whole groups again, in loops over Python numbers, with derivatives by hand.

Written apart from the library. A formula gets the rows of one group as numbers x (a sum of log-ratios or a mean
log-probability), rewards and extra numbers, and returns a value per row and the derivative of their sum by every x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Found = tuple[list[float], list[float]]


def mean(xs: Sequence[float]) -> float:
    return sum(xs) / len(xs)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def classifier(
    x, rewards, extra=None, *, beta=1.0, comparison="others", balanced=True, threshold=0.5, epsilon=1e-6
) -> Found:
    n, u = len(x), [beta * a for a in x]
    label = [1.0 if r > threshold else 0.0 for r in rewards]
    spread = 1.0
    if comparison == "others":
        psi = [u[i] - (sum(u) - u[i]) / (n - 1) if n > 1 else u[i] for i in range(n)]
    elif comparison == "standardised":
        spread = math.sqrt(sum((a - mean(u)) ** 2 for a in u) / (n - 1)) if n > 1 else 0.0
        psi = [(a - mean(u)) / (spread + epsilon) for a in u]
    else:
        psi = u
    weight = [n / (2 * label.count(y)) if balanced and 0 < sum(label) < n else 1.0 for y in label]
    value = [w * (-y * log_sigmoid(p) - (1 - y) * log_sigmoid(-p)) for w, y, p in zip(weight, label, psi, strict=True)]
    g = [w * (sigmoid(p) - y) for w, y, p in zip(weight, label, psi, strict=True)]
    if comparison == "others" and n > 1:
        slope = [g[k] - sum(g[i] for i in range(n) if i != k) / (n - 1) for k in range(n)]
    elif comparison == "standardised":
        slope = []
        for k in range(n):
            centred = u[k] - mean(u)
            by_spread = -sum(a * (b - mean(u)) for a, b in zip(g, u, strict=True)) / (spread + epsilon) ** 2
            through = by_spread * centred / ((n - 1) * spread) if spread > 0 else 0.0
            slope.append((g[k] - mean(g)) / (spread + epsilon) + through)
    else:
        slope = g
    return value, [beta * s for s in slope]


def regression(x, rewards, extra=None, *, beta=0.1, pairs=False) -> Found:
    """By every pair: sum_{i>j} ((b x_i - R_i) - (b x_j - R_j))^2 is n times the sum of squares around the mean."""
    n = len(x)
    if n < 2:
        return [0.0] * n, [0.0] * n
    gap = [beta * a - r for a, r in zip(x, rewards, strict=True)]
    scale = 1 / (beta * (n - 1)) if pairs else 1 / (n * (n - 1))
    value = [0.5 * scale * n * (a - mean(gap)) ** 2 for a in gap]
    total = 0.5 * scale * sum((gap[i] - gap[j]) ** 2 for i in range(n) for j in range(i))
    assert abs(sum(value) - total) < 1e-9 * max(1.0, total)
    return value, [beta * scale * sum(gap[k] - b for b in gap) for k in range(n)]


def joint(x, rewards, extra=None, *, clip=0.2) -> Found:
    n = len(x)
    value, slope = [0.0] * n, [0.0] * n
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            apart, better, both = x[i] - x[j], rewards[i] - rewards[j], math.exp(x[i] + x[j])
            plain, held = apart * better, min(max(apart, -clip), clip) * better
            value[i] -= 0.5 * both * min(plain, held) / (n - 1)
            moves = -0.5 * both * better / (n - 1) if plain <= held else 0.0
            slope[i] += moves
            slope[j] -= moves
    return value, slope


def sides(rewards, threshold):
    right = [i for i, r in enumerate(rewards) if r > threshold]
    return right, [i for i in range(len(rewards)) if i not in right]


def preference(x, rewards, extra=None, *, beta=1.0, threshold=0.5) -> Found:
    right, wrong = sides(rewards, threshold)
    value, slope = [0.0] * len(x), [0.0] * len(x)
    for i in right:
        for j in wrong:
            margin, pairs = beta * (x[i] - x[j]), len(right) * len(wrong)
            value[i] -= log_sigmoid(margin) / pairs
            slope[i] -= beta * sigmoid(-margin) / pairs
            slope[j] += beta * sigmoid(-margin) / pairs
    return value, slope


def equivalent(x, rewards, extra=None, *, beta=0.1, spread=1.0, threshold=0.5) -> Found:
    right, wrong = sides(rewards, threshold)
    value, slope = [0.0] * len(x), [0.0] * len(x)
    if not right or not wrong:
        return value, slope
    centre, n = mean([x[i] for i in right]), len(right)
    margin = beta * (centre - mean([x[j] for j in wrong]))
    for i in right:
        value[i] = (-log_sigmoid(margin) + spread * (x[i] - centre) ** 2) / n
        slope[i] = (-beta * sigmoid(-margin) + 2 * spread * (x[i] - centre)) / n
    for j in wrong:
        slope[j] = beta * sigmoid(-margin) / len(wrong)
    return value, slope


def discriminative(x, rewards, bonus, *, temperature=10.0, sharpness=0.1, threshold=0.5) -> Found:
    right, wrong = sides(rewards, threshold)
    value, slope = [0.0] * len(x), [0.0] * len(x)
    if not right or not wrong:
        return value, slope
    top = max(bonus[i] for i in right)
    weights = {i: math.exp((bonus[i] - top) / sharpness) for i in right}
    for i in right:
        slope[i] = -weights[i] / sum(weights.values())
        value[i] = slope[i] * x[i]
    if math.isinf(temperature):
        hardest, share = mean([x[j] for j in wrong]), {j: 1 / len(wrong) for j in wrong}
    else:
        raised = {j: math.exp(x[j] / temperature) for j in wrong}
        hardest = temperature * math.log(sum(raised.values()) / len(wrong))
        share = {j: raised[j] / sum(raised.values()) for j in wrong}
    for j in wrong:
        value[j], slope[j] = hardest / len(wrong), share[j]
    return value, slope
