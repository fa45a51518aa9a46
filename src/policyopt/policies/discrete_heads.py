"""Heads of policies that choose among alternatives. See `head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from policyopt.distributions import Categorical, MultiCategorical, epsilon_greedy
from policyopt.policies.bodies import MLP
from policyopt.policies.head import Head
from policyopt.policies.spaces import Discrete, Multi


def _inverse(p: Any, uniform: Any) -> Any:
    """Inverse of the cumulative distribution, as `Categorical.sample`: p (..., V) unnormalised, uniform (..., 1)."""
    cumulative = p.astype(np.float64).cumsum(-1)
    index = (cumulative <= uniform * cumulative[..., -1:]).sum(-1)
    return np.minimum(index, p.shape[-1] - 1)


def _softened(logits: Any) -> Any:
    return np.exp(logits - logits.max(-1, keepdims=True))


class _Choices(Head):
    """Heads over alternatives, which the world may number from another one than 0."""

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return step + low

    def receive(self, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return action - low


@dataclass(frozen=True)
class CategoricalHead(_Choices):
    """softmax over the choices."""

    name = "categorical"
    actions = Discrete

    def outputs(self, actions: Discrete) -> int:
        return actions.choices

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Discrete) -> Categorical:
        return Categorical.of(out)

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Discrete) -> Any:
        return out.argmax(-1) if noise is None else _inverse(_softened(out), noise)


@dataclass(frozen=True)
class QHead(_Choices):
    """The outputs are action values; acts greedily but with probability epsilon (the level) alike (DQN)."""

    name = "q"
    actions = Discrete
    body = MLP((120, 84), "relu")
    gain = 1.0
    differentiable = False

    def outputs(self, actions: Discrete) -> int:
        return actions.choices

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Discrete) -> Categorical:
        return epsilon_greedy(out, level)

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Discrete) -> Any:
        best = out.argmax(-1)
        if noise is None:
            return best
        level = np.asarray(level, out.dtype)[..., None]
        return _inverse(level / actions.choices + (1 - level) * np.eye(actions.choices, dtype=out.dtype)[best], noise)


@dataclass(frozen=True)
class MultiCategoricalHead(_Choices):
    """A softmax for each of several independent choices."""

    name = "multi_categorical"
    actions = Multi

    def outputs(self, actions: Multi) -> int:
        return sum(actions.sizes)

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Multi) -> MultiCategorical:
        return MultiCategorical.of(out, actions.sizes)

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Multi) -> Any:
        pieces = np.split(out, np.cumsum(actions.sizes)[:-1], axis=-1)
        if noise is None:
            return np.stack([piece.argmax(-1) for piece in pieces], -1)
        return np.stack([_inverse(_softened(p), noise[..., m : m + 1]) for m, p in enumerate(pieces)], -1)
