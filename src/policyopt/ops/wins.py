"""Contests of rows: how often a row wins against others of its group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def win_rates(
    chance: Float[Tensor, " pairs"], row: Int[Tensor, " pairs"], size: int, *, without: float = 0.5
) -> Float[Tensor, " {size}"]:
    """Mean over a row's contests of its chance to win each (row: who it is the chance of); `without` for rows without
    a contest."""
    total = chance.new_zeros(size).index_add(0, row, chance)
    count = torch.bincount(row, minlength=size).to(chance)
    return torch.where(count > 0, total / count.clamp(min=1), without)
