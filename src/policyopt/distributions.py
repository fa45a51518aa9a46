"""Distributions over one step. Imports nothing of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """The most exact floating type of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@runtime_checkable
class Distribution(Protocol):
    """A distribution over one step, for any leading axes; `width` uniform numbers draw one sample."""

    @property
    def width(self) -> int: ...
    def log_prob(self, step: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def kl(self, other: Any) -> Tensor: ...
    def sample(self, uniform: Tensor) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def tempered(self, temperature: Tensor) -> Distribution: ...
    def detach(self) -> Distribution: ...
    def __getitem__(self, index: Any) -> Distribution: ...


def _expected(logp: Tensor, value: Tensor) -> Tensor:
    """sum_v p(v) value(v) over the last axis. A choice of probability 0 contributes 0, in value and in gradient:
    0 * -inf is nan, and so is its derivative unless the value is selected before it is multiplied."""
    p = logp.exp()
    return (p * torch.where(p > 0, value, 0.0)).sum(-1)


@dataclass(frozen=True)
class Categorical:
    """A distribution over V choices; `logp` (..., V) is normalised."""

    logp: Float[Tensor, "*lead V"]

    @staticmethod
    def of(logits: Tensor, temperature: Tensor | float = 1.0) -> Categorical:
        """Normalised in at least float32, whatever the model's precision (low-precision heads lose ratios)."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return Categorical((logits / temperature).log_softmax(-1))

    @property
    def width(self) -> int:
        return 1

    def log_prob(self, step: Tensor) -> Tensor:
        return self.logp.gather(-1, step[..., None])[..., 0]

    def entropy(self) -> Tensor:
        return -_expected(self.logp, self.logp)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other), exact, >= 0."""
        return _expected(self.logp, self.logp - other.logp)

    def sample(self, uniform: Tensor) -> Tensor:
        """Inverse of the cumulative distribution; uniform (..., 1) in [0, 1)."""
        wide = widest(self.logp.device)
        cumulative = self.logp.to(wide).exp().cumsum(-1)
        # Scaled by the total, so that rounding can not push a draw past the last possible choice.
        index = torch.searchsorted(cumulative, uniform.to(wide) * cumulative[..., -1:], right=True)
        return index[..., 0].clamp(max=self.logp.shape[-1] - 1)

    def mode(self) -> Tensor:
        return self.logp.argmax(-1)

    def tempered(self, temperature: Tensor) -> Categorical:
        return Categorical((self.logp / temperature[..., None]).log_softmax(-1))

    def detach(self) -> Categorical:
        return Categorical(self.logp.detach())

    def __getitem__(self, index: Any) -> Categorical:
        return Categorical(self.logp[index])


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution over D dimensions; densities are summed over D, never averaged."""

    mean: Float[Tensor, "*lead D"]
    std: Float[Tensor, "*lead D"]

    @property
    def width(self) -> int:
        return self.mean.shape[-1]

    def log_prob(self, step: Tensor) -> Tensor:
        z = (step - self.mean) / self.std
        return (-0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other), exact, >= 0."""
        squares = (self.std**2 + (self.mean - other.mean) ** 2) / (2 * other.std**2)
        return ((other.std / self.std).log() + squares - 0.5).sum(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """uniform (..., D) in [0, 1), through the normal quantile function."""
        # Clamped because the quantile of 0 is minus infinity.
        wide = widest(self.mean.device)
        tiny = torch.finfo(wide).eps
        normal = torch.special.ndtri(uniform.to(wide).clamp(tiny, 1 - tiny))
        return self.mean + self.std * normal.to(self.mean.dtype)

    def mode(self) -> Tensor:
        return self.mean

    def tempered(self, temperature: Tensor) -> Gaussian:
        return replace(self, std=self.std * temperature[..., None].sqrt())

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.std.detach())

    def __getitem__(self, index: Any) -> Gaussian:
        return Gaussian(self.mean[index], self.std[index])
