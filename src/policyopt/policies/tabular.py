"""Tables: exact policies whose states the world numbers. Oracles for tests, arms for experiments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policyopt.types import Batch, Categorical, Scores


class Table(nn.Module):
    """Logits (S, V), one row per state. Reads the row column `_state` to act and the step column `_state` to score."""

    kind = "tabular"

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.logits[batch.row["_state"]])

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        heat = batch.row["temperature"].to(self.logits.dtype)[:, None, None]
        dist = Categorical.of(self.logits[batch.step["_state"]], heat.clamp(min=1e-8))
        entropy = dist.entropy()
        return Scores(dist.log_prob(batch.step["_step"]), entropy, dist if full else None)

    def make_critic(self, rng: torch.Generator) -> TableCritic:
        return TableCritic(len(self.logits), self.logits.dtype)


class TableCritic(nn.Module):
    """A value per state; the state after a row's end has value 0, the state after a cut row its own value."""

    def __init__(self, states: int, dtype: torch.dtype):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(states, dtype=dtype))

    def value(self, batch: Batch) -> Tensor:
        final = self.values[batch.row["_state"]][:, None]
        at_steps = torch.where(batch.valid, self.values[batch.step["_state"]], final)
        return torch.cat([at_steps, final], 1)
