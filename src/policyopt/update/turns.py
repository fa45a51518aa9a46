"""An average in which every turn of a row weighs the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Averaging
from policyopt.distributions import widest
from policyopt.ops.pieces import pieces
from policyopt.types import Batch


@dataclass(frozen=True)
class TurnMean(Averaging):
    """Mean over rows of the mean over a row's turns of the mean over a turn's steps. Turns and rows without a counted
    step do not count."""

    column: str = "turn"

    formula = "mean_b mean_k (sum_{t in k} m_bt x_bt / sum_{t in k} m_bt)"

    @property
    def reads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.column,)

    def __call__(self, mask: Tensor, batch: Batch, total: Callable[[Tensor], Tensor]) -> Tensor:
        weights = mask.to(widest(mask.device))
        turns = pieces(batch, self.column, mask)
        steps, ones = turns.total(weights), torch.ones(len(turns), dtype=weights.dtype, device=mask.device)
        of_row = torch.zeros(len(mask), dtype=weights.dtype, device=mask.device).index_add(0, turns.row, ones)
        rows = total((of_row > 0).to(weights.dtype).sum()).clamp(min=1)
        return turns.spread(1 / steps.clamp(min=1) / of_row[turns.row].clamp(min=1)) / rows
