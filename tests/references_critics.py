"""Losses on the values of the states that follow, again as loops over Python numbers.

Each gives the unreduced values and the derivatives by the values (B, T + 1) of sum weight value.
"""

from __future__ import annotations

import math

from policyopt.objective.successors import ActionReturnError, RowClassifier, SarsaError, StepRegression


def classifier(values, trained, rewards, weights):
    """(B,) and (B, T + 1)."""
    losses, slopes = [], []
    for w, mask, r, weight in zip(values, trained, rewards, weights, strict=True):
        places = [t for t, m in enumerate(mask) if m]
        logit = sum(w[t + 1] for t in places) / max(len(places), 1)
        p = 1 / (1 + math.exp(-logit))
        losses.append(-r * math.log(p) - (1 - r) * math.log(1 - p))
        slope = [0.0] * len(w)
        for t in places:
            slope[t + 1] += weight * (p - r) / len(places)
        slopes.append(slope)
    return losses, slopes


def regression(values, trained, targets, weights):
    losses = [[0.0] * len(row) for row in trained]
    slopes = [[0.0] * len(w) for w in values]
    for b, row in enumerate(trained):
        for t, m in enumerate(row):
            if m:
                gap = values[b][t + 1] - targets[b][t]
                losses[b][t], slopes[b][t + 1] = gap**2, 2 * weights[b][t] * gap
    return losses, slopes


def sarsa(values, own, trained, rewards, weights, gamma):
    """rewards: of own steps, those of others' steps already added to them."""
    losses = [[0.0] * len(row) for row in own]
    slopes = [[0.0] * len(w) for w in values]
    for b, row in enumerate(own):
        places = [t for t, m in enumerate(row) if m]
        for number, t in enumerate(places):
            following = values[b][places[number + 1] + 1] if number + 1 < len(places) else 0.0
            gap = values[b][t + 1] - rewards[b][t] - gamma * following
            if trained[b][t]:
                losses[b][t], slopes[b][t + 1] = gap**2, 2 * weights[b][t] * gap
    return losses, slopes


def action_returns(table, states, steps, returns):
    """Mean over steps of sum_e (Q_e - G)^2 / 2, and its derivative by the table (E, S, A)."""
    value, slope = 0.0, [[[0.0] * len(row) for row in head] for head in table]
    for s, a, g in zip(states, steps, returns, strict=True):
        for e, head in enumerate(table):
            gap = head[s][a] - g
            value += 0.5 * gap**2 / len(states)
            slope[e][s][a] += gap / len(states)
    return value, slope


REFERENCES = {
    ActionReturnError: action_returns,
    RowClassifier: classifier,
    StepRegression: regression,
    SarsaError: sarsa,
}
