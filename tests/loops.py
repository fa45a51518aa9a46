"""The formulas of the papers again, as plain loops over Python numbers, with derivatives by hand.

Written apart from the library: nothing here imports it. A step loss is (value, d value / d log pi) of one step; a row
loss gets the row's steps and returns its value and one derivative per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Pair = tuple[float, float]


# -- losses of one step: l = log pi, o = log pi_old, f = log pi_reference, t = log pi_teacher, a = advantage ----
def policy_gradient(l: float, a: float) -> Pair:  # noqa: E741
    return -a * l, -a


def clipped(l: float, o: float, a: float, low: float, high: float, dual: float | None = None) -> Pair:  # noqa: E741
    r = math.exp(l - o)
    if (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low):
        bound = 1 + high if a > 0 else 1 - low
        return -bound * a, 0.0
    if dual is not None and a < 0 and r > dual:
        return -dual * a, 0.0
    return -r * a, -r * a


def of_change(d: float, a: float, low: float, high: float) -> Pair:
    """The clipped surrogate of a ratio exp(d), and its derivative by d."""
    r = math.exp(d)
    if (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low):
        return -(1 + high if a > 0 else 1 - low) * a, 0.0
    return -r * a, -r * a


def sampled_reverse_kl(l: float, o: float, t: float) -> Pair:  # noqa: E741
    r = math.exp(l - o)
    return r * (l - t), r * (l - t)


def kl_term(l: float, o: float, f: float) -> Pair:  # noqa: E741
    r = math.exp(l - o)
    return r * (l - f), r * (l - f)


def k1_term(l: float, f: float) -> Pair:  # noqa: E741
    return l - f, 1.0


def k2_term(l: float, f: float) -> Pair:  # noqa: E741
    return (l - f) ** 2 / 2, l - f


def k3_term(l: float, f: float) -> Pair:  # noqa: E741
    return math.exp(f - l) - (f - l) - 1, 1 - math.exp(f - l)


def value_error(v: float, g: float, old: float, clip: float | None) -> Pair:
    plain = (v - g) ** 2 / 2
    if clip is None:
        return plain, v - g
    near = min(max(v, old - clip), old + clip)
    bounded = (near - g) ** 2 / 2
    if plain >= bounded:
        return plain, v - g
    return bounded, (near - g if near == v else 0.0)


# -- losses of one row ------------------------------------------------------------------------------------------
def sequence_ratio(l: Sequence[float], o: Sequence[float], power: float) -> float:  # noqa: E741
    """(prod_t pi / pi_old) ^ power."""
    ratio = 1.0
    for one, old in zip(l, o, strict=True):
        ratio *= math.exp(one - old)
    return ratio**power


def sequence_surrogate(
    l: Sequence[float],  # noqa: E741
    o: Sequence[float],
    a: float,
    low: float,
    high: float,
    *,
    geometric: bool,
) -> tuple[float, list[float]]:
    power = 1 / len(l) if geometric else 1.0
    s = sequence_ratio(l, o, power)
    if (a > 0 and s > 1 + high) or (a < 0 and s < 1 - low):
        return -(1 + high if a > 0 else 1 - low) * a, [0.0] * len(l)
    return -s * a, [-s * a * power] * len(l)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def pair_loss(delta: float, beta: float, smoothing: float = 0.0) -> Pair:
    """Value, and derivative by delta = rho(chosen) - rho(rejected)."""
    value = -(1 - smoothing) * log_sigmoid(beta * delta) - smoothing * log_sigmoid(-beta * delta)
    up, down = 1 / (1 + math.exp(-beta * delta)), 1 / (1 + math.exp(beta * delta))
    return value, -(1 - smoothing) * beta * down + smoothing * beta * up


# -- whole distributions: p, q as lists of probabilities; derivatives by the logits of p -------------------------
def _by_logits(p: Sequence[float], by_p: Sequence[float]) -> list[float]:
    centre = sum(a * b for a, b in zip(p, by_p, strict=True))
    return [a * (b - centre) for a, b in zip(p, by_p, strict=True)]


def kl(p: Sequence[float], q: Sequence[float]) -> tuple[float, list[float]]:
    ratios = [math.log(a) - math.log(b) for a, b in zip(p, q, strict=True)]
    return sum(a * r for a, r in zip(p, ratios, strict=True)), _by_logits(p, ratios)


def entropy(p: Sequence[float]) -> tuple[float, list[float]]:
    return -sum(a * math.log(a) for a in p), _by_logits(p, [-math.log(a) for a in p])


def jensen_shannon(p: Sequence[float], t: Sequence[float], beta: float) -> tuple[float, list[float]]:
    m = [beta * b + (1 - beta) * a for a, b in zip(p, t, strict=True)]
    value = beta * kl(t, m)[0] + (1 - beta) * kl(p, m)[0]
    # d/dp_v: the derivatives through m add to a constant, which the softmax removes.
    return value, _by_logits(p, [(1 - beta) * math.log(a / c) for a, c in zip(p, m, strict=True)])


# -- averages: mask -> weights -----------------------------------------------------------------------------------
Mask = Sequence[Sequence[bool]]


def token_mean(mask: Mask) -> list[list[float]]:
    count = sum(sum(row) for row in mask)
    return [[1 / count if m else 0.0 for m in row] for row in mask]


def sequence_mean(mask: Mask) -> list[list[float]]:
    rows = sum(any(row) for row in mask)
    return [[1 / sum(row) / rows if m else 0.0 for m in row] for row in mask]


def sequence_sum(constant: float) -> Callable[[Mask], list[list[float]]]:
    def weights(mask: Mask) -> list[list[float]]:
        rows = sum(any(row) for row in mask)
        return [[1 / rows / constant if m else 0.0 for m in row] for row in mask]

    return weights


def row_mean(mask: Sequence[bool]) -> list[float]:
    return [1 / sum(mask) if m else 0.0 for m in mask]


# -- credit ------------------------------------------------------------------------------------------------------
def members(groups: Sequence[int], scored: Sequence[bool], b: int) -> list[int]:
    return [i for i, g in enumerate(groups) if g == groups[b] and scored[i]]


def standardised(rewards, groups, scored, epsilon: float = 1e-6, ddof: int = 1) -> list[float]:
    out = []
    for b in range(len(rewards)):
        values = [rewards[i] for i in members(groups, scored, b)]
        if not scored[b] or len(values) < 2 or max(values) == min(values):
            out.append(0.0)
            continue
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - ddof)
        out.append((rewards[b] - mean) / (math.sqrt(variance) + epsilon))
    return out


def centred(rewards, groups, scored) -> list[float]:
    out = []
    for b in range(len(rewards)):
        values = [rewards[i] for i in members(groups, scored, b)]
        out.append(rewards[b] - sum(values) / len(values) if scored[b] else 0.0)
    return out


def leave_one_out(rewards, groups, scored) -> list[float]:
    out = []
    for b in range(len(rewards)):
        others = [rewards[i] for i in members(groups, scored, b) if i != b]
        out.append(rewards[b] - sum(others) / len(others) if scored[b] and others else 0.0)
    return out


def gae(rewards, values, after: float, gamma: float, lam: float) -> list[float]:
    """One row: A_t = sum_k (gamma lam)^k delta_{t+k}, as the double sum of the definition."""
    following = [*values[1:], after]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    return [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
