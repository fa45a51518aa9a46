"""Rows of a group compared with each other: pairs, shares and soft maxima, with gradient."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.ops.groups import group_count, group_mean


def pairs_within(
    ids: Int[Tensor, " B"], first: Bool[Tensor, " B"], second: Bool[Tensor, " B"]
) -> Int[Tensor, "pairs 2"]:
    """Every ordered pair of two different rows of a group, the one among `first` and the other among `second`."""
    left, right = first.nonzero()[:, 0], second.nonzero()[:, 0]
    right = right[ids[right].argsort(stable=True)]
    begin, end = (torch.searchsorted(ids[right], ids[left], right=after) for after in (False, True))
    count = end - begin
    before = (count.cumsum(0) - count).repeat_interleave(count)
    place = begin.repeat_interleave(count) + torch.arange(len(before), device=ids.device) - before
    pairs = torch.stack([left.repeat_interleave(count), right[place]], 1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def largest(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The largest valid value of each row's group, without gradient; 0 in a group without any."""
    unique, inverse = ids.unique(return_inverse=True)
    least = torch.full((len(unique),), -torch.inf, dtype=x.dtype, device=x.device)
    found = least.scatter_reduce(0, inverse[valid], x.detach()[valid], "amax")
    return torch.where(found.isfinite(), found, 0.0)[inverse]


def _exponentials(x: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """exp(x - largest of the group), 0 outside `valid`, and the largest."""
    top = largest(x, ids, valid)
    return torch.where(valid, torch.where(valid, x - top, 0.0).exp(), 0.0), top


def group_share(x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Softmax of x over the valid rows of each row's group; 0 for rows that are not valid."""
    raised, _ = _exponentials(x, ids, valid)
    whole = group_mean(raised, ids, valid) * group_count(ids, valid)
    return raised / torch.where(whole > 0, whole, 1.0)


def group_log_mean_exp(
    x: Float[Tensor, " B"], ids: Int[Tensor, " B"], valid: Bool[Tensor, " B"], temperature: float = 1.0
) -> Float[Tensor, " B"]:
    """temperature log mean exp(x / temperature) over the valid rows of each row's group; 0 in a group without any. A
    temperature of inf is the mean."""
    if math.isinf(temperature):
        return group_mean(x, ids, valid)
    raised, top = _exponentials(x / temperature, ids, valid)
    mean = group_mean(raised, ids, valid)
    some = mean > 0
    return torch.where(some, temperature * (torch.where(some, mean, 1.0).log() + top), 0.0)


def skew(first: Float[Tensor, "*#n D"], second: Float[Tensor, "*#n D"]) -> Float[Tensor, "*n"]:
    """v^T R w, R blocks of ((0, 1), (-1, 0)): the sum over planes of v_1 w_2 - v_2 w_1. Of representations (r, 1) it is
    the difference of scores r. skew(v, w) = -skew(w, v)."""
    return (first[..., 0::2] * second[..., 1::2] - first[..., 1::2] * second[..., 0::2]).sum(-1)
