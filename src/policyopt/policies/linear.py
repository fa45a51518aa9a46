"""Softmax policies that are linear in features of numbered states, with linear critics of the same features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policyopt.ops.masked import select
from policyopt.policies.tabular import ChoiceValues, Softmax, along
from policyopt.types import Batch


class Linear(Softmax):
    """logits(s) = features[s] @ weights; features (S, D), weights (D, V). One-hot features are a table."""

    features: Tensor
    weights: nn.Parameter

    def __init__(self, features: Tensor, weights: Tensor):
        super().__init__()
        if features.dim() != 2 or len(weights) != features.shape[1]:
            raise ValueError(
                f"weights (D, V) need a row per feature (S, D); got {tuple(features.shape)}, {tuple(weights.shape)}"
            )
        self.register_buffer("features", features.clone())
        self.weights = nn.Parameter(weights.clone())

    @property
    def logits(self) -> Tensor:
        """(S, V) of all states."""
        return self.features @ self.weights

    def preferences(self, state: Tensor) -> Tensor:
        return self.features[state] @ self.weights

    @property
    def hidden_size(self) -> int:
        return self.features.shape[1]

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D) features of the state that each step leads to."""
        return self.features[batch.following("_state")]

    def make_critic(self, rng: torch.Generator) -> LinearCritic:
        return LinearCritic(self.features)

    def make_q(self, rng: torch.Generator, heads: int) -> LinearQ:
        first = 0.01 * torch.randn(heads, *self.weights.shape, generator=rng, dtype=torch.float64)
        return LinearQ(self.features, first.to(self.weights))

    def make_reward(self, rng: torch.Generator) -> LinearReward:
        first = 0.01 * torch.randn(*self.weights.shape, generator=rng, dtype=torch.float64)
        return LinearReward(self.features, first.to(self.weights))


class LinearCritic(nn.Module):
    """V(s) = features[s] @ weights (D,); see `TableCritic` for the state after a row's end."""

    features: Tensor

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features.clone())
        self.weights = nn.Parameter(features.new_zeros(features.shape[1]))

    def value(self, batch: Batch) -> Tensor:
        return along(self.features @ self.weights, batch)


class LinearQ(ChoiceValues):
    """Q(s, a) = features[s] @ weights[:, a] for E heads; weights (E, D, V)."""

    features: Tensor

    def __init__(self, features: Tensor, weights: Tensor):
        super().__init__()
        self.register_buffer("features", features.clone())
        self.weights = nn.Parameter(weights.clone())

    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        state = batch.following("_state") if following else batch.step["_state"]
        return torch.einsum("btd,edv->ebtv", self.features[state], self.weights)


class LinearReward(nn.Module):
    """What a row is worth: the sum over its own steps of features[s] @ weights[:, a]."""

    features: Tensor

    def __init__(self, features: Tensor, weights: Tensor):
        super().__init__()
        self.register_buffer("features", features.clone())
        self.weights = nn.Parameter(weights.clone())

    def worth(self, batch: Batch) -> Tensor:
        """(B,)"""
        paid = (self.features[batch.step["_state"]] * self.weights.T[batch.step["_step"]]).sum(-1)
        return select(batch.own, paid).sum(1)
