"""One step of a denoising chain as a distribution, and the named ways to reduce its density over D dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.distributions import standard_normal


class Density(Protocol):
    """How log-densities of single dimensions (..., D) become one number (...)."""

    def __call__(self, entries: Tensor) -> Tensor: ...

    def effective_clip(self, clip: float, dims: int) -> float:
        """The clip range of the *joint* ratio that a clip range of this density's ratio means."""
        ...


@dataclass(frozen=True)
class Summed:
    """The joint density: a ratio is the ratio of the whole latent."""

    def __call__(self, entries: Tensor) -> Tensor:
        return entries.sum(-1)

    def effective_clip(self, clip: float, dims: int) -> float:
        return clip


@dataclass(frozen=True)
class Averaged:
    """The mean over dimensions (DDPO, DPPO, DanceGRPO): a ratio is the D-th root of the joint one, so a clip range c
    bounds the joint ratio by (1 + c)^D."""

    def __call__(self, entries: Tensor) -> Tensor:
        return entries.mean(-1)

    def effective_clip(self, clip: float, dims: int) -> float:
        return math.expm1(dims * math.log1p(clip))


AVERAGED = Averaged()


@dataclass(frozen=True)
class ClampedAverage:
    """The mean over the first `entries` dimensions (None: all; the executed part of an action chunk), each clamped to
    low..high first (DPPO: -5..2). A clamped dimension has no gradient."""

    low: float = -5.0
    high: float = 2.0
    entries: int | None = None

    def __call__(self, entries: Tensor) -> Tensor:
        return entries[..., : self.entries].clamp(self.low, self.high).mean(-1)

    def effective_clip(self, clip: float, dims: int) -> float:
        return math.expm1((self.entries or dims) * math.log1p(clip))


@dataclass(frozen=True)
class Transition:
    """A diagonal Gaussian over the next latent. A dimension of std 0 is deterministic and adds nothing to the density.

    density: the convention, of log_prob, entropy and kl alike. floor: least std of the *density* (sampling keeps std).
    noise_clip: bound on |noise| when sampling; the density stays that of the unclipped Gaussian (DPPO).
    """

    mean: Float[Tensor, "*lead D"]
    std: Float[Tensor, "*lead D"]
    density: Density = AVERAGED
    floor: float = 0.0
    noise_clip: float | None = None

    @property
    def width(self) -> int:
        return self.mean.shape[-1]

    @property
    def _random(self) -> Tensor:
        return self.std > 0

    @property
    def density_std(self) -> Tensor:
        """The std of the density; 1 where the step is deterministic, so that nothing divides by 0."""
        return torch.where(self._random, self.std.clamp(min=self.floor), 1.0)

    def _reduced(self, entries: Tensor) -> Tensor:
        return self.density(torch.where(self._random, entries, 0.0))

    def log_prob(self, step: Tensor) -> Tensor:
        std = self.density_std
        # Selected before it is squared: the mean of a step that was not evaluated is nan.
        z = torch.where(self._random, step - self.mean, 0.0) / std
        return self._reduced(-0.5 * z**2 - std.log() - 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        return self._reduced(self.density_std.log() + 0.5 * math.log(2 * math.pi * math.e))

    def kl(self, other: Transition) -> Tensor:
        """KL(self || other) in the same convention, >= 0. Where a step is deterministic it is 0."""
        mine, theirs = self.density_std, other.density_std
        gap = torch.where(self._random, self.mean - other.mean, 0.0)
        return self._reduced((theirs / mine).log() + (mine**2 + gap**2) / (2 * theirs**2) - 0.5)

    def sample(self, uniform: Tensor) -> Tensor:
        """uniform (..., D) in [0, 1), through the normal quantile function."""
        return self.mean + self.std * self._clipped(standard_normal(uniform).to(self.mean.dtype))

    def _clipped(self, noise: Tensor) -> Tensor:
        return noise if self.noise_clip is None else noise.clamp(-self.noise_clip, self.noise_clip)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised from standard normal noise (..., D): the steps, with gradient, and their log-density."""
        step = self.mean + self.std * self._clipped(noise)
        return step, self.log_prob(step)

    def mode(self) -> Tensor:
        return self.mean

    def tempered(self, temperature: Tensor) -> Transition:
        return replace(self, std=self.std * temperature[..., None].to(self.std).sqrt())

    def detach(self) -> Transition:
        return replace(self, mean=self.mean.detach(), std=self.std.detach())

    def __getitem__(self, index: Any) -> Transition:
        return replace(self, mean=self.mean[index], std=self.std[index])
