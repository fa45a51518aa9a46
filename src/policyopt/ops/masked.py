"""Reductions under a mask. A masked value is selected away, never multiplied by zero: 0 * nan is nan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over every rank that takes part in the optimiser step; on one rank, the identity."""


def alone(x: Tensor) -> Tensor:
    """The `Total` of a run with one rank."""
    return x


def select(mask: Bool[Tensor, "*shape"], x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x where the mask holds, else exactly 0, in value and in gradient."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def placed(mask: Bool[Tensor, "*shape"], values: Float[Tensor, " n"]) -> Float[Tensor, "*shape"]:
    """Values of the entries where the mask holds, in their places; 0 elsewhere. For values that cost much or may
    be undefined outside the mask: compute them on `x[mask]` only."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def masked_sum(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    return select(mask, x).sum(1)


def masked_mean(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Mean over the masked steps of every row; an empty row gives 0, not 0/0."""
    return masked_sum(x, mask) / mask.sum(1).clamp(min=1)


def whiten(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], total: Total = alone, epsilon: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """(x - mean) / (std_s + epsilon) over every masked entry of every rank; std_s divides by n - 1.
    Entries outside the mask give 0. Fewer than two entries are only centred; equal ones give 0."""
    kept = select(mask, x)
    count = total(mask.sum().to(x.dtype))
    mean = total(kept.sum()) / count.clamp(min=1)
    centred = select(mask, x - mean)
    deviation = (total((centred**2).sum()) / (count - 1).clamp(min=1)).sqrt()
    # The mean of equal numbers is rounded: what they then seem to differ by must not become a deviation of 1.
    differ = deviation > 8 * torch.finfo(x.dtype).eps * mean.abs()
    scaled = torch.where(differ, centred / (deviation + epsilon), 0.0)
    return torch.where(count > 1, scaled, centred)
