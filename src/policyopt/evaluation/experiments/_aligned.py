"""Contextual bandits with features of contexts and answers together, gold and proxy rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from policyopt.evaluation.experiments._common import choice_scores
from policyopt.types import Batch, Categorical, Scores


class Tilted(nn.Module):
    """A log-linear policy around a base: logits(s) = base[s] + features[s] @ weights; features (S, A, D)."""

    kind = "tabular"
    features: Tensor
    base: Tensor

    def __init__(self, features: Tensor, base: Tensor | None = None):
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("base", features.new_zeros(features.shape[:2]) if base is None else base)
        self.weights = nn.Parameter(features.new_zeros(features.shape[2]))

    @property
    def logits(self) -> Tensor:
        return self.base + self.features @ self.weights

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.logits[batch.row["_state"]])

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        return choice_scores(self.logits[batch.step["_state"]], batch, full=full)

    def make_reward(self, rng: torch.Generator) -> FeatureReward:
        return FeatureReward(self.features)


class FeatureReward(nn.Module):
    """A reward model of the row's one answer, linear in the features."""

    features: Tensor

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features)
        self.weights = nn.Parameter(features.new_zeros(features.shape[2]))

    def worth(self, batch: Batch) -> Tensor:
        return self.features[batch.step["_state"][:, 0], batch.step["_step"][:, 0]] @ self.weights


def fitted(better: Tensor, worse: Tensor, ridge: float = 1e-2) -> Tensor:
    """(D,) weights of a Bradley-Terry model of pairs of features (M, D), by Newton's method; ridge |w|^2 / 2."""
    gap = (better - worse).double()
    weights = gap.new_zeros(gap.shape[1])
    for _ in range(30):
        share = torch.sigmoid(-gap @ weights)
        slope = -gap.T @ share + ridge * weights
        bend = (gap.T * (share * (1 - share))) @ gap + ridge * torch.eye(len(weights), dtype=gap.dtype)
        weights = weights - torch.linalg.solve(bend, slope)
    return weights.to(better.dtype)


def pair_loss(weights: Tensor, better: Tensor, worse: Tensor, ridge: float = 1e-2) -> Tensor:
    """What `fitted` minimises."""
    return softplus(-(better - worse).double() @ weights.double()).sum() + 0.5 * ridge * weights.double().square().sum()


def win_rate(table: Tensor, other: Tensor, gold: Tensor) -> float:
    """P(an answer of the first policy is preferred to one of the other), by Bradley-Terry of the gold rewards; tables
    and rewards (S, A), mean over contexts, exact."""
    preferred = torch.sigmoid(gold[:, :, None] - gold[:, None, :])
    return float(torch.einsum("sa,sab,sb->s", table, preferred, other).mean())


def divergence(table: Tensor, other: Tensor) -> float:
    """KL(table || other), mean over contexts, nats."""
    return float((table * (table.clamp(min=1e-30).log() - other.clamp(min=1e-30).log())).sum(1).mean())
