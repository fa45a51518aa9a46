"""Cases of losses whose minimiser is a step of a preference game."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cases import Case
from loops import pair_loss
from policyopt.objective.games import MirrorPreference, WinRateLogistic


def by_pairs(formula: Callable[..., tuple[float, float]], models: str) -> Callable:
    """The reference of a loss of pairs: formula(log-probability gaps of `models`, reward gap) and its derivative by the
    gap of the policy."""

    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        pairs, ranks = batch.row["pair"].tolist(), batch.row["rank"].tolist()
        for w in [b for b, rank in enumerate(ranks) if rank == 0]:
            (l,) = [b for b in range(len(batch)) if pairs[b] == pairs[w] and ranks[b] == 1]  # noqa: E741
            steps = {b: [t for t in range(batch.steps) if batch.trained[b, t]] for b in (w, l)}
            whole = [{b: sum(float(tables[m][b, t]) for t in steps[b]) for b in (w, l)} for m in models.split()]
            worth = {
                b: sum(float(batch.step["reward"][b, t]) for t in range(batch.steps) if batch.valid[b, t])
                for b in (w, l)
            }
            value[w], moved = formula(*(x[w] - x[l] for x in whole), worth[w] - worth[l])
            slope[w, steps[w]], slope[l, steps[l]] = moved, -moved
        return value, slope

    return reference


def squared(eta: float, tau: float, *, rates: bool) -> Callable:
    def formula(policy: float, reference: float, old: float, reward: float) -> tuple[float, float]:
        goal = reward / eta if rates else 1 / (2 * eta)
        error = policy - tau / eta * reference - (eta - tau) / eta * old - goal
        return error**2, 2 * error

    return formula


def soft(eta: float) -> Callable:
    def formula(policy: float, old: float, reward: float) -> tuple[float, float]:
        q = 1 / (1 + 2.718281828459045**-reward)
        first, second = pair_loss(policy - old, eta), pair_loss(old - policy, eta)
        return q * first[0] + (1 - q) * second[0], q * first[1] - (1 - q) * second[1]

    return formula


CASES = {
    "mirror_preference": Case(
        MirrorPreference(0.5, 0.2), by_pairs(squared(0.5, 0.2, rates=False), "policy reference old"), unit="pair"
    ),
    "mirror_win_rates": Case(
        MirrorPreference(0.8, 0.1, "win_rates"),
        by_pairs(squared(0.8, 0.1, rates=True), "policy reference old"),
        unit="pair",
    ),
    "win_rate_logistic": Case(WinRateLogistic(0.7), by_pairs(soft(0.7), "policy old"), unit="pair"),
}
