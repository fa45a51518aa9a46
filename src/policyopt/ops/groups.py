"""Statistics of rows that share an id. Groups are ids, never strides: any subset or order of rows is valid."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def _sums(x: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and count per group, and each row's group index."""
    unique, inverse = ids.unique(return_inverse=True)
    zero = torch.zeros(len(unique), dtype=x.dtype, device=x.device)
    return (
        zero.index_add(0, inverse[valid], x[valid]),
        zero.index_add(0, inverse[valid], torch.ones_like(x[valid])),
        inverse,
    )


def places(ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """(B,) how many earlier rows have the row's id."""
    order = ids.argsort(stable=True)
    first = torch.searchsorted(ids[order], ids)
    return order.argsort() - first


def group_count(ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Valid rows of each row's group."""
    ones = torch.ones(len(ids), device=ids.device)
    _, count, inverse = _sums(ones, ids, valid)
    return count[inverse].long()


def group_mean(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean over the valid rows of each row's group; 0 in a group without any."""
    total, count, inverse = _sums(x, ids, valid)
    return (total / count.clamp(min=1))[inverse]


def group_std(
    x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"], ddof: int = 1
) -> Float[Tensor, " B"]:
    """Standard deviation with divisor n - ddof over each row's group; 0 in a group of one."""
    centred = torch.where(valid, x - group_mean(x, ids, valid), torch.zeros_like(x))
    total, count, inverse = _sums(centred**2, ids, valid)
    return (total / (count - ddof).clamp(min=1)).sqrt()[inverse]


def group_range(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Largest less smallest valid value of each row's group: exactly 0 if all are equal, which a deviation from
    a rounded mean is not. 0 in a group without any valid row."""
    unique, inverse = ids.unique(return_inverse=True)
    empty = torch.full((len(unique),), torch.inf, dtype=x.dtype, device=x.device)
    least = empty.scatter_reduce(0, inverse[valid], x[valid], "amin")
    most = (-empty).scatter_reduce(0, inverse[valid], x[valid], "amax")
    return torch.where(most >= least, most - least, 0.0)[inverse]


def group_centred(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """x less the mean of its group's valid rows; exactly 0 if those are equal, whose mean is rounded, and outside."""
    differ = valid & (group_range(x, ids, valid) > 0)
    return torch.where(differ, x - group_mean(x, ids, valid), 0.0)


def others_mean(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean over the *other* valid rows of each row's group; 0 where there is no other."""
    total, count, inverse = _sums(x, ids, valid)
    own = torch.where(valid, x, torch.zeros_like(x))
    return (total[inverse] - own) / (count[inverse] - valid.to(x.dtype)).clamp(min=1)


def informative(
    x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"], tolerance: float = 1e-8
) -> Bool[Tensor, " B"]:
    """True for rows whose group has valid values that differ by more than the tolerance."""
    return group_range(x, ids, valid) > tolerance


def group_quantile(
    x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"], share: float
) -> Float[Tensor, " B"]:
    """Quantile (linear between order statistics) of the valid rows of each row's group; nan in a group without any."""
    found = torch.full_like(x, torch.nan)
    for one in ids.unique():
        rows = ids == one
        if bool((rows & valid).any()):
            found[rows] = x[rows & valid].quantile(share)
    return found
