"""Tables: exact policies whose states the world numbers. Oracles for tests, arms for experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from policyopt.ops.comparisons import skew
from policyopt.ops.kept import within
from policyopt.ops.masked import select
from policyopt.types import Batch, Categorical, Scores


class Softmax(nn.Module, ABC):
    """A policy over finitely many choices in numbered states. Reads the row column `_state` to act and the step
    columns `_state` and `_step` to score."""

    kind = "tabular"
    truncates = True

    @abstractmethod
    def preferences(self, state: Tensor) -> Tensor:
        """(..., V) logits at states (...)."""

    @abstractmethod
    def make_critic(self, rng: torch.Generator) -> nn.Module: ...

    @abstractmethod
    def make_q(self, rng: torch.Generator, heads: int) -> nn.Module: ...

    @abstractmethod
    def make_reward(self, rng: torch.Generator) -> nn.Module: ...

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.preferences(batch.row["_state"]))

    def at(self, batch: Batch, *, following: bool = False) -> Categorical:
        state = batch.following("_state") if following else batch.step["_state"]
        logits = self.preferences(state)
        heat = batch.row["temperature"].to(logits.dtype)[:, None, None]
        return Categorical.of(logits, heat.clamp(min=1e-8))

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        dist = within(self.at(batch), batch)
        return Scores(dist.log_prob(self.taken(batch)), dist.entropy(), dist if full else None)

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_step"]

    def emit(self, step: Tensor) -> Tensor:
        return step

    def receive(self, action: Tensor) -> Tensor:
        return action


class Table(Softmax):
    """Logits (S, V), one row per state."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def preferences(self, state: Tensor) -> Tensor:
        return self.logits[state]

    def make_critic(self, rng: torch.Generator) -> TableCritic:
        return TableCritic(len(self.logits), self.logits.dtype)

    def make_q(self, rng: torch.Generator, heads: int) -> TableQ:
        # Small random numbers: heads that begin equal would stay equal.
        first = 0.01 * torch.randn(heads, *self.logits.shape, generator=rng, dtype=torch.float64)
        return TableQ(first.to(self.logits))

    def make_reward(self, rng: torch.Generator) -> TableReward:
        first = 0.01 * torch.randn(*self.logits.shape, generator=rng, dtype=torch.float64)
        return TableReward(first.to(self.logits))

    def make_preference(self, rng: torch.Generator, dimension: int) -> TablePreference:
        # Not small: at 0 a product of two representations has no slope.
        first = torch.randn(*self.logits.shape, dimension, generator=rng, dtype=torch.float64) / dimension**0.5
        return TablePreference(first.to(self.logits))


class TableCritic(nn.Module):
    """A value per state; the state after a row's end has value 0, the state after a cut row its own value."""

    def __init__(self, states: int, dtype: torch.dtype):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(states, dtype=dtype))

    def value(self, batch: Batch) -> Tensor:
        return along(self.values, batch)


def along(values: Tensor, batch: Batch) -> Tensor:
    """(B, T + 1) values (S,) of the states before every step and of the last one."""
    final = values[batch.row["_state"]][:, None]
    return torch.cat([torch.where(batch.valid, values[batch.step["_state"]], final), final], 1)


class ChoiceValues(nn.Module, ABC):
    """E action values of finitely many choices in numbered states."""

    @abstractmethod
    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        """(E, B, T, V)"""

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        chosen = batch.step["_step"] if steps is None else steps
        every = self.q_all(batch, following=following)
        return every.gather(-1, chosen[..., None].expand(*every.shape[:-1], 1))[..., 0]


class TableQ(ChoiceValues):
    """Values (E, S, V) of E heads, a number per state and choice."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        return self.values[:, batch.following("_state") if following else batch.step["_state"]]


class TableReward(nn.Module):
    """What a row is worth: the sum over its own steps of a number (S, V) per state and choice."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def worth(self, batch: Batch) -> Tensor:
        """(B,)"""
        return select(batch.own, self.values[batch.step["_state"], batch.step["_step"]]).sum(1)


class TablePreference(nn.Module):
    """How far rows are preferred to each other, by a skew-symmetric form of their representations: sums over own steps
    of those (S, V, D) of a state and choice."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def compare(self, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
        """(n,) the log-odds that rows `first` (n,) are preferred to rows `second` (n,)."""
        each = self.values[batch.step["_state"], batch.step["_step"]]
        said = select(batch.own[..., None].expand_as(each), each).sum(1)
        return skew(said[first], said[second])
