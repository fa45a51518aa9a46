"""Fitting a flow to the hidden states of good rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Loss, Seen
from policyopt.ops.masked import select
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


def steps_of_right(seen: Seen, batch: Batch) -> Tensor:
    """Trained steps of rows whose reward is at least 1."""
    return batch.trained & (total_reward(batch) >= 1)[:, None]


@dataclass(frozen=True)
class HiddenFlowMatching(Loss):
    """mean_d (v(x, share, c) - (h - n))^2 with x = share h + (1 - share) n, h the policy's hidden state after a step,
    c the one before (RLFR, arXiv 2510.10201). Noise and shares are drawn once per optimiser step."""

    model: str = "flow"

    needs = "hidden states"
    formula = "mean_d (v(s h + (1 - s) n, s, c) - (h - n))^2, n ~ N(0, 1), s ~ U(0, 1)"

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        flow: Any = getattr(seen, "ctx").models[self.model]  # noqa: B009
        hidden, rng = flow.hidden(batch), seen.rng("hidden flow")
        noise = torch.randn(hidden.shape, generator=rng, dtype=torch.float64).to(hidden)
        share = torch.rand(hidden.shape[:2], generator=rng, dtype=torch.float64).to(hidden)
        return batch.with_steps({"_hidden": hidden, "_noised": noise, "_share": share})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        flow: Any = getattr(seen, "ctx").models[self.model]  # noqa: B009
        found = flow.deviation(batch.step["_hidden"], batch.step["_noised"], batch.step["_share"])
        return select(batch.trained, found)
