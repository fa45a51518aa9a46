"""What control policies and their critics read of a batch: observations as numbers, memory by the state rule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from policyopt.policies.normaliser import Normaliser
from policyopt.policies.spaces import Observations
from policyopt.types import Batch

MEMORY = "_memory"


class Eyes(nn.Module):
    """Observations (*lead, *S) -> numbers (*lead, flat): bytes of images divided by 255, integers one-hot, the rest
    normalised if asked."""

    def __init__(self, spec: Observations, *, normalise: bool):
        super().__init__()
        self.spec = spec
        self.normaliser = Normaliser(math.prod(spec.shape)) if normalise else None

    def forward(self, observations: Tensor, dtype: torch.dtype) -> Tensor:
        if self.spec.choices:
            return F.one_hot(observations.long(), self.spec.choices).to(dtype)
        lead = observations.shape[: observations.dim() - len(self.spec.shape)]
        x = observations.to(dtype).reshape(*lead, -1)
        if self.spec.image:
            return x / 255
        return x if self.normaliser is None else self.normaliser(x)

    def learn(self, batch: Batch) -> None:
        """Move the normaliser's statistics by the observations that own steps were taken at."""
        if self.normaliser is not None:
            self.normaliser.update(batch.step["_obs"].reshape(len(batch), batch.steps, -1), batch.own)


def cleared(valid: Bool[Tensor, "B T"], x: Tensor) -> Tensor:
    """(B, T, ...) with zeros at padding: a nan there would reach every weight's gradient as 0 * nan."""
    return torch.where(valid.view(*valid.shape, *(1,) * (x.dim() - 2)), x, torch.zeros((), dtype=x.dtype))


def carried(before: Batch, after: Batch, moved: Mapping[str, Tensor], live: Tensor) -> Batch:
    """`after` (one step appended to `before`) with the policy's own state columns by the state rule: the step was taken
    with what the row held before it, and live rows now hold what `advance` said."""
    rows, steps = {}, {}
    for name, new in moved.items():
        old = before.row[name]
        column = after.step[name].clone()
        column[:, -1] = old
        steps[name] = column
        rows[name] = torch.where(live.view(-1, *(1,) * (old.dim() - 1)), new, old)
    return after.with_rows(rows).with_steps(steps)
