"""Advantages prepared once per optimiser step, for any loss that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.masked import whiten
from policyopt.types import Batch


@dataclass(frozen=True)
class StandardisedAdvantages(Loss):
    """A loss whose advantages are standardised over the trained steps of every optimiser step, clamped to two of their
    quantiles (0 and 1: not at all) and only then, if `discounted`, multiplied by the column `discount` (DPPO's order,
    arXiv 2409.00588, released code). Without discount it is what most released code of PPO does; the credit is then
    not to whiten."""

    loss: Loss = field(default_factory=ClippedSurrogate)
    low: float = 0.0
    high: float = 1.0
    discounted: bool = True

    needs = "a discount for every step"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise CompositionError(f"quantiles need 0 <= low < high <= 1, got {self.low} and {self.high}")

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        discount = "discount * " if self.discounted else ""
        return f"{self.loss.formula}; A = {discount}clamp((A - mean A) / std A, quantiles)"

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.loss.reads, *(("discount",) if self.discounted else ()))

    @property
    def roles(self) -> tuple[str, ...]:
        return self.loss.roles

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        total: Any = getattr(seen, "ctx").total  # noqa: B009
        trained = batch.trained
        advantage = whiten(batch.step["advantage"], trained, total)
        if (self.low, self.high) != (0, 1) and trained.any():
            low, high = (torch.quantile(advantage[trained], q) for q in (self.low, self.high))
            advantage = advantage.clamp(low, high)
        if self.discounted:
            advantage = advantage * batch.step["discount"]
        return self.loss.plan(seen, batch.with_steps({"advantage": advantage}))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return self.loss(seen, batch)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Any]:
        return self.loss.watch(seen, batch)
