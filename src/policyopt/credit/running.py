"""Advantages standardised by moments that outlive a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.types import Batch, Round

MOMENTS = Cell("advantage_moments", lambda: {"count": 0.0, "sum": 0.0, "squares": 0.0})
RAW = "raw_advantage"


@dataclass(frozen=True)
class RunningStandardised(Part):
    """Advantages less their mean, over their standard deviation, both from exponentially weighted sums over rounds,
    this one included (arXiv 2110.00641): a small batch is normalised as a large one would be.

    Sums weigh every step alike, so a round counts by its steps; the variance divides by the count.
    """

    decay: float = 0.9
    epsilon: float = 1e-8

    formula = "A <- (A - s / n) / (sqrt(q / n - (s / n)^2) + epsilon); (n, s, q) <- decay (n, s, q) + sums of 1, A, A^2"
    reads = ("advantage",)
    writes = ("advantage", RAW)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.epsilon < 0:
            raise CompositionError(
                f"need decay in 0..1, below 1, and epsilon >= 0, got {self.decay} and {self.epsilon}"
            )

    def _moments(self, before: Mapping[str, float], raw: Tensor) -> dict[str, float]:
        raw = raw.detach().double()
        sums = {"count": float(raw.numel()), "sum": float(raw.sum()), "squares": float((raw**2).sum())}
        return {name: self.decay * before[name] + new for name, new in sums.items()}

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        raw, counted = batch.step["advantage"], _counted(batch)
        now = self._moments(ctx[MOMENTS], raw[counted])
        if not now["count"]:
            return batch.with_steps({RAW: raw})
        mean = now["sum"] / now["count"]
        deviation = max(0.0, now["squares"] / now["count"] - mean**2) ** 0.5
        scaled = torch.where(counted, (raw - mean) / (deviation + self.epsilon), 0.0)
        return batch.with_steps({"advantage": scaled, RAW: raw})

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.credited
        ctx[MOMENTS] = self._moments(ctx[MOMENTS], rows.step[RAW][_counted(rows)])


def _counted(batch: Batch) -> Tensor:
    """Own steps of scored rows."""
    return batch.own & batch.row["scored"][:, None]
