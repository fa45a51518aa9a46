"""Directions of ascent from rankings alone (zeroth-order optimisation with a ranking oracle, arXiv 2303.03751)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rank_weights(order: Int[Tensor, " k"], count: int) -> Float[Tensor, " m"]:
    """Weights by which `count` perturbations move towards the better ones, from the numbers of the best k, best first.

    Every pair that the ranking orders, (i, j) with i above j, votes for xi_i - xi_j; their mean is sum_i w_i xi_i with
    w = (m - 1 - 2p) / |N| at place p of the ranking and -k / |N| outside it, |N| = k (k - 1) / 2 + k (m - k).
    """
    best = len(order)
    if not 1 <= best <= count or count < 2 or len(order.unique()) < best:
        raise ValueError(f"a ranking names 1 to {count} of at least two candidates once each, got {order.tolist()}")
    weights = torch.full((count,), -float(best), dtype=torch.float64)
    weights[order.cpu()] = count - 1 - 2 * torch.arange(best, dtype=torch.float64)
    return weights / (best * (best - 1) / 2 + best * (count - best))


def best_first(values: Float[Tensor, " m"], most: int) -> Int[Tensor, " k"]:
    """What a ranking oracle says: the `most` largest values, largest first, the first among equals."""
    return values.argsort(descending=True, stable=True)[:most]
