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


def negative(
    x,
    rewards,
    extra=None,
    *,
    weighting="linear",
    negative=1.0,
    floor_right=0.0,
    floor_wrong=1.0,
    least=0.02,
    threshold=0.5,
) -> list[tuple[float, float]]:
    """x: for every row of the group the list of its log-ratios. Value and derivative of each."""
    right, _ = sides(rewards, threshold)
    q = min(max(len(right) / len(rewards), least), 1 - least)
    weight = {"linear": 1 - q, "root": math.sqrt((1 - q) / q), "none": 1.0}[weighting]
    out = []
    for i, row in enumerate(x):
        out.append([])
        for d in row:
            r, moves = math.exp(min(d, 10.0)), 1.0 if d <= 10.0 else 0.0
            if i in right:
                out[-1].append((-weight * math.log(max(r, floor_right)), -weight * r / max(r, floor_right) * moves))
            else:
                implied = (1 - q * r) / (1 - q)
                value = max(implied, floor_wrong)
                slope = -q * r / (1 - q) / value * moves
                out[-1].append((-negative * weight * math.log(value), -negative * weight * slope))
    return out


def beta_normalised(rewards, group, scored, alpha=None, beta=None, low=0.0, high=1.0) -> list[float]:
    """By group: the density at the mean reward, of exponents from the moments of all means."""
    scaled = [(r - low) / (high - low) for r in rewards]
    rows = {g: [i for i in range(len(rewards)) if group[i] == g and scored[i]] for g in group}
    rates = {g: min(max(mean([scaled[i] for i in mine]), 0.0), 1.0) for g, mine in rows.items() if mine}
    m, free = mean(list(rates.values())), (1.0, 1.0)
    v = sum((p - m) ** 2 for p in rates.values()) / (len(rates) - 1) if len(rates) > 1 else 0.0
    if v > 1e-8:
        size = m * (1 - m) / v - 1
        free = (max(1.0, 1 + size * m / 3), max(1.0, 1 + size * (1 - m) / 3))
    a, b = alpha or free[0], beta or free[1]
    out = [0.0] * len(rewards)
    for g, mine in rows.items():
        if len(mine) < 2 or not 0 < rates[g] < 1:
            continue
        p = rates[g]
        density = math.gamma(a + b) / math.gamma(a) / math.gamma(b) * p ** (a - 1) * (1 - p) ** (b - 1)
        for i in mine:
            out[i] = (scaled[i] - p) * min(1 / density, 1e6)
    return out


def on_own_scale(rewards, group, scored, source, epsilon=1e-6, ddof=0, bound=5.0) -> list[float]:
    out = [0.0] * len(rewards)
    for i, reward in enumerate(rewards):
        own = [rewards[j] for j in range(len(rewards)) if group[j] == group[i] and scored[j] and source[j] == 0]
        if not scored[i] or not own:
            continue
        m, given = mean(own), source[i] != 0
        if max(own) > min(own):
            deviation = math.sqrt(sum((r - m) ** 2 for r in own) / (len(own) - ddof))
            out[i] = (reward - m) / (deviation + epsilon)
        elif given:
            out[i] = float(reward > m) - float(reward < m)
        if given and bound is not None:
            out[i] = min(max(out[i], -bound), bound)
    return out


def quantile(values: Sequence[float], level: float) -> float:
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def papers(rewards, group, scored, size) -> dict[tuple[int, int], list[int]]:
    """Rows of every paper: (bundle, number of the attempt)."""
    bundle = {g: n // size for n, g in enumerate(sorted(set(group)))}
    found, seen = {}, {}
    for i, g in enumerate(group):
        if scored[i]:
            found.setdefault((bundle[g], seen.get(g, 0)), []).append(i)
            seen[g] = seen.get(g, 0) + 1
    return found


def deviation(values: Sequence[float]) -> float:
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def risk(
    rewards,
    group,
    scored,
    held=None,
    *,
    size=5,
    alpha=0.2,
    beta=0.8,
    tail=1.5,
    natural=True,
    sharing="deviation",
    epsilon=1e-6,
    rate=0.1,
) -> list[float]:
    rows = papers(rewards, group, scored, size)
    score = {key: sum(rewards[i] for i in mine) for key, mine in rows.items()}
    low, high = held or [quantile(list(score.values()), level) for level in (alpha, beta)]
    out = [0.0] * len(rewards)
    for key, mine in rows.items():
        s, alike = score[key], [x for other, x in score.items() if other[0] == key[0]]
        middle = max(s - low, 0) - max(s - high, 0) + (low - high) * natural
        a = (middle / (beta - alpha) - tail * max(low - s, 0) / alpha) / (tail + 1)
        if len(alike) > 1:
            a = a / (deviation(alike) + epsilon) if max(alike) > min(alike) else 0.0
        ahead, spread = {}, {}
        for i in mine:
            own = [rewards[j] for j in range(len(rewards)) if group[j] == group[i] and scored[j]]
            ahead[i], spread[i] = rewards[i] - mean(own), deviation(own)
        total, absolute = sum(ahead.values()), sum(abs(d) for d in ahead.values())
        for i in mine:
            if sharing == "uniform":
                out[i] = a
            elif sharing == "deviation":
                out[i] = a / ((spread[i] if spread[i] > 1e-3 else 1.0) + epsilon)
            elif sharing == "share":
                out[i] = a / len(mine) if abs(total) <= epsilon else a * ahead[i] / total
            else:
                out[i] = abs(a) * ahead[i] / absolute if absolute > 0 else 0.0
    return out


def balanced_bounds(
    ratios,
    advantages,
    *,
    share=0.4,
    low=0.6,
    low_end=0.9,
    low_by=0.02,
    high=1.2,
    high_end=3.0,
    high_by=0.05,
    counted="value",
    quotient=False,
    first="high",
) -> tuple[float, float]:
    """By hand: bounds as whole numbers of steps, so that sums of small numbers do not matter."""

    def balanced(lo, hi):
        good = bad = 0.0
        for r, a in zip(ratios, advantages, strict=True):
            if counted == "gradient":
                good += r * a if a >= 0 and r <= hi else 0.0
                bad -= r * a if a < 0 and r >= lo else 0.0
            else:
                good += min(r, hi) * a if a >= 0 else 0.0
                bad -= max(r, lo) * a if a < 0 else 0.0
        if bad <= 0:
            return True
        return good / bad >= share if quotient else good / (good + bad) >= share

    lows, highs = math.ceil((low_end - low) / low_by - 1e-9), math.ceil((high_end - high) / high_by - 1e-9)
    if first == "high":
        path = [(0, m) for m in range(highs)] + [(n, highs) for n in range(lows)]
    else:
        path = [(n, 0) for n in range(lows)] + [(lows, m) for m in range(highs)]
    bounds = [(min(low + n * low_by, low_end), min(high + m * high_by, high_end)) for n, m in [*path, (lows, highs)]]
    return next((pair for pair in bounds if balanced(*pair)), bounds[-1])
