"""What loops over Python numbers say of losses of reward models: value and derivative by every row's reward.

Each takes the rewards of a pair (chosen, rejected) or of a list, best first, or of one row and its label.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from enumeration import Fixed
from policyopt.compose import Method, RewardModel, Term
from policyopt.objective.reward_models import ListRanking, PairHinge, PairOdds, PairRanking, RowCrossEntropy
from policyopt.selection.tasks import Selection
from policyopt.types import Batch
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from support import ABOUT


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ranking(won: float, lost: float, margin: float = 0.0, smoothing: float = 0.0, centred: float = 0.0):
    d = won - lost - margin
    value = -(1 - smoothing) * math.log(sigma(d)) - smoothing * math.log(sigma(-d)) + centred * (won + lost) ** 2
    by_d = sigma(d) - (1 - smoothing)
    pull = 2 * centred * (won + lost)
    return value, [by_d + pull, -by_d + pull]


def hinge(won: float, lost: float, margin: float = 1.0):
    gap = margin - won + lost
    return (gap, [-1.0, 1.0]) if gap > 0 else (0.0, [0.0, 0.0])


def listed(worth: list[float], *, first: bool = False):
    value, slope = 0.0, [0.0] * len(worth)
    for k in range(1 if first else len(worth) - 1):
        whole = sum(math.exp(x) for x in worth[k:])
        value -= math.log(math.exp(worth[k]) / whole)
        slope[k] -= 1
        for j in range(k, len(worth)):
            slope[j] += math.exp(worth[j]) / whole
    return value, slope


def labelled(worth: float, label: float):
    p = sigma(worth)
    return -label * math.log(p) - (1 - label) * math.log(1 - p), p - label


def odds(said: float, smoothing: float = 0.0):
    """By the log-odds themselves."""
    value = -(1 - smoothing) * math.log(sigma(said)) - smoothing * math.log(sigma(-said))
    return value, sigma(said) - (1 - smoothing)


REFERENCES: dict[type, Any] = {
    PairOdds: odds,
    PairRanking: ranking,
    PairHinge: hinge,
    ListRanking: listed,
    RowCrossEntropy: labelled,
}


class Said(nn.Module):
    """A reward model of free numbers, one per row (`_row`)."""

    def __init__(self, numbers: Tensor):
        super().__init__()
        self.numbers = nn.Parameter(numbers.clone())

    def worth(self, batch: Batch) -> Tensor:
        return self.numbers[batch.row["_row"]]


class Compared(nn.Module):
    """A preference model of free numbers: log-odds that row `_row` a is preferred to b, antisymmetric."""

    def __init__(self, numbers: Tensor):
        super().__init__()
        self.numbers = nn.Parameter(numbers.clone())

    def compare(self, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
        one, other = batch.row["_row"][first], batch.row["_row"][second]
        return self.numbers[one, other] - self.numbers[other, one]


def said(*numbers: float) -> Said:
    return Said(torch.tensor(numbers, dtype=torch.float64))


def training(batch: Batch, *terms: Term, rate: float = 1.0, epochs: int = 1, models: tuple[str, ...] = ()) -> Method:
    """A method of terms that train reward models on one batch by plain gradient steps."""
    names = (*(term.trains for term in terms), *models) or ("reward",)
    return Method(
        about=ABOUT,
        selection=Selection(),
        sampling=Fixed(batch, ("pair", "rank", "label", "gap")),
        update=GradientSteps({name: SGD(rate) for name in names}, epochs=epochs, clip_norm=None),
        objective=terms,
        models={name: RewardModel() for name in names},
    )
