"""Averages of unreduced losses: mask -> weights over the whole optimiser step.

Each owns the scale alone. `total` sums over ranks, so the weights of all micro-batches of all ranks belong to one
function of the set of steps, and micro-batches and ranks only sum. An empty mask gives zero weights, never 0/0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from policyopt.compose import Averaging, CompositionError
from policyopt.distributions import widest
from policyopt.types import Batch

Total = Callable[[Tensor], Tensor]


def _float(mask: Tensor) -> Tensor:
    """Float64 whatever the model's precision: a rounded 1 / count is a wrong scale of the whole step."""
    return mask.to(widest(mask.device))


@dataclass(frozen=True)
class TokenMean(Averaging):
    """Every counted step weighs the same (DAPO): long rows weigh more than short ones."""

    mean: ClassVar[bool] = True
    formula = "sum_bt m_bt x_bt / sum_bt m_bt"

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = _float(mask)
        return weights / total(weights.sum()).clamp(min=1)


@dataclass(frozen=True)
class SequenceMean(Averaging):
    """Mean over rows of the mean over a row's steps (GRPO): every row weighs the same, so a step of a long row
    weighs less. Rows without a counted step do not count."""

    mean: ClassVar[bool] = True
    formula = "mean_b (sum_t m_bt x_bt / sum_t m_bt)"

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = _float(mask)
        lengths = weights.sum(1, keepdim=True)
        rows = total((lengths > 0).to(weights.dtype).sum()).clamp(min=1)
        return weights / lengths.clamp(min=1) / rows


@dataclass(frozen=True)
class SequenceSum(Averaging):
    """Mean over rows of the sum over a row's steps, divided by a *configured* constant (Dr. GRPO): neither the
    padded width nor the micro-batch size enters. Rows without a counted step do not count."""

    constant: float = 1.0

    formula = "mean_b (sum_t m_bt x_bt) / constant"

    def __post_init__(self) -> None:
        if self.constant <= 0:
            raise CompositionError(f"the constant divisor must be above 0, not {self.constant}")

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = _float(mask)
        rows = total((weights.sum(1) > 0).to(weights.dtype).sum()).clamp(min=1)
        return weights / rows / self.constant


@dataclass(frozen=True)
class RowMean(Averaging):
    """Mean over the counted values of a row-, pair- or list-level loss (B,)."""

    mean: ClassVar[bool] = True
    formula = "sum_b m_b x_b / sum_b m_b"

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = _float(mask)
        return weights / total(weights.sum()).clamp(min=1)
