"""Link functions of preference losses: how a margin z, or two values of a pair, becomes a loss. Elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Link = Literal["logistic", "hinge", "squared", "exponential", "exo", "discovered"]
SideLink = Literal["nca", "apo_zero", "apo_down", "sppo"]
Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon"]


def _discovered(z: Tensor) -> Tensor:
    """DiscoPOP (arXiv 2406.08414): logistic and exponential losses mixed by sigma(z / 0.05)."""
    share = torch.sigmoid(z / 0.05)
    return softplus(-z) * (1 - share) + torch.exp(-z) * share


LINKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda z: softplus(-z),
    "hinge": lambda z: (1 - z).clamp(min=0),
    "squared": lambda z: (z - 0.5) ** 2,
    "exponential": lambda z: torch.exp(-z),
    "discovered": _discovered,
}


def preferred(z: Tensor, link: Link, wrong: float = 0.0, *, unbiased: bool = False) -> Tensor:
    """Loss of a margin z whose label is wrong with probability `wrong`: that of the labels' mixture (conservative), or
    the combination whose mean over labels is the loss of the right label (unbiased; arXiv 2403.00409).

    exo: KL(sigma(z) || 1 - wrong), the policy's own choice against the label (arXiv 2402.00856); wrong > 0.
    """
    if link == "exo":
        agree, differ = logsigmoid(z), logsigmoid(-z)
        return agree.exp() * (agree - math.log1p(-wrong)) + differ.exp() * (differ - math.log(wrong))
    of = LINKS[link]
    if wrong == 0:
        return of(z)
    if unbiased:
        return ((1 - wrong) * of(z) - wrong * of(-z)) / (1 - 2 * wrong)
    return (1 - wrong) * of(z) + wrong * of(-z)


SIDE_LINKS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    # arXiv 2402.05369 with two answers; arXiv 2408.06266 (both); arXiv 2405.00675 with P(won > lost) = 1.
    "nca": lambda won, lost: softplus(-won) + 0.5 * (softplus(won) + softplus(lost)),
    "apo_zero": lambda won, lost: 1 - torch.sigmoid(won) + torch.sigmoid(lost),
    "apo_down": lambda won, lost: torch.sigmoid(won) + 1 - torch.sigmoid(won - lost),
    "sppo": lambda won, lost: (won - 0.5) ** 2 + (lost + 0.5) ** 2,
}
"""Losses that see the value of either side, not their difference alone."""


def tilted(rho: Tensor, divergence: Divergence) -> Tensor:
    """f'(exp rho) up to a constant: the implicit reward under an f-divergence (arXiv 2309.16240)."""
    if divergence == "forward_kl":
        return -torch.exp(-rho)
    return logsigmoid(rho) + math.log(2) if divergence == "jensen_shannon" else rho
