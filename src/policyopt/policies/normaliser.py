"""Running statistics of observations, kept in the model so that they are saved, copied and frozen with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from policyopt.distributions import widest

CLIP = 10.0
_EPSILON = 1e-8


class Normaliser(nn.Module):
    """(x - mean) / sqrt(variance + 1e-8), clipped to +-10; the identity (but for the clip) until its first update.

    Only `update` changes the statistics: scoring, acting and evaluating never do.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        return (self.variance + _EPSILON).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., S), in its own floating type."""
        return ((x - self.mean.to(x.dtype)) * self.scale.to(x.dtype)).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, observations: Tensor, mask: Tensor) -> None:
        """Merge the masked observations (*lead, S) of mask (*lead): Chan, Golub and LeVeque 1979, in float64.

        With n, m, v of either side and d = m_b - m_a:
        n = n_a + n_b, m = m_a + d n_b / n, v = (n_a v_a + n_b v_b + d^2 n_a n_b / n) / n.
        """
        wide = widest(observations.device)
        new = observations[mask].to(wide)
        if not len(new):
            return
        mean, variance, count = self.mean.to(wide), self.variance.to(wide), self.count.to(wide)
        total = count + len(new)
        delta = new.mean(0) - mean
        squares = count * variance + len(new) * new.var(0, correction=0) + delta**2 * count * len(new) / total
        self.mean.copy_(mean + delta * len(new) / total)
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002 - the signature is torch's
        """Statistics move between devices, but stay as exact as the device can hold them."""
        return super()._apply(lambda x: x.to(device := fn(x).device, widest(device)), recurse)

    def follow(self, other: Normaliser) -> None:
        """Take over another's statistics."""
        self.load_state_dict(other.state_dict())
