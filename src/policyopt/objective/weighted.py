"""Likelihood of recorded steps, weighted by how good they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Part, Seen
from policyopt.ops.masked import select
from policyopt.types import Batch, Source


@dataclass(frozen=True)
class AdvantageWeighted(Loss):
    """Likelihood weighted by exp(A / temperature) up to `cap` (AWR, arXiv 1910.00177, eq. 6 and appendix; IQL's policy
    step, arXiv 2110.06169, eq. 7). Temperature -> infinity is the plain likelihood."""

    temperature: float = 1.0
    cap: float = 20.0

    formula = "-min(exp(A_bt / temperature), cap) log pi_bt"
    reads = ("advantage",)

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.cap <= 0:
            raise CompositionError(f"temperature and cap must be above 0, got {self.temperature} and {self.cap}")

    def weight(self, batch: Batch) -> Tensor:
        # Clamped before it is exponentiated: no overflow on the way to the cap.
        gain = select(batch.trained, batch.step["advantage"]) / self.temperature
        return gain.clamp(max=math.log(self.cap)).exp()

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return -self.weight(batch) * select(batch.trained, seen["policy"].logp)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"weight": self.weight(batch)}


@dataclass(frozen=True)
class WithCriticAdvantage(Loss):
    """Any loss of advantages, on the advantage min_e Q_e(s, a) - V(s) that the critics say of the recorded step."""

    loss: Loss = AdvantageWeighted()
    critic: str = "target"
    value: str = "value"

    formula = "the loss inside, with A = min_e Q'_e(s, a) - V(s)"
    needs = "action values"

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(column for column in self.loss.reads if column != "advantage")

    @property
    def roles(self) -> tuple[str, ...]:
        return self.loss.roles

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.critic, self.value, *self.loss.critics)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        advantage = seen.q(self.critic).amin(0) - seen.value(self.value)
        return self.loss.plan(seen, batch.with_steps({"advantage": select(batch.trained, advantage)}))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return self.loss(seen, batch)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        return self.loss.watch(seen, batch)


@dataclass(frozen=True)
class BySource(Part):
    """A term weight by row: 1 for rows sampled in this round, `replayed` for rows of earlier rounds, `recorded` for
    rows of a data set. What the average counts stays as it is."""

    replayed: float = 1.0
    recorded: float = 1.0

    formula = "1 (fresh rows), replayed or recorded"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        source = batch.row["source"]
        weight = torch.ones(len(batch), dtype=batch.step["behaviour"].dtype, device=batch.device)
        weight = torch.where(source == Source.REPLAY, self.replayed, weight)
        return torch.where(source == Source.DATASET, self.recorded, weight)[:, None]
