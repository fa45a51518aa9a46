"""Paths from noise to samples: the noise levels of sampling and of training. See `chains` for the letters."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """time (K,): what the network is told at step k. signal, noise (K + 1,): a and b of every level."""

    time: Float[Tensor, " K"]
    signal: Float[Tensor, " levels"]
    noise: Float[Tensor, " levels"]

    def at(self, index: Int[Tensor, " N"], like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b of level k and a', b' of level k + 1, (N, 1) in the latents' type."""
        here = [column.to(like)[index][:, None] for column in (self.signal, self.noise)]
        after = [column.to(like)[index + 1][:, None] for column in (self.signal, self.noise)]
        return here[0], here[1], after[0], after[1]


class Path(Protocol):
    """Where the noise levels come from."""

    @property
    def steps(self) -> int: ...
    def levels(self) -> Levels: ...
    def training_time(self, uniform: Tensor) -> Tensor:
        """Network times for training from uniform numbers in [0, 1), any shape."""
        ...

    def marginal(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """a and b at network times."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """a = 1 - s, b = s on levels 1 = s_0 > ... > s_K = 0, shifted by s <- q s / (1 + (q - 1) s).

    time_scale: what s is multiplied with before the network sees it. sigmas: levels written out (K + 1), instead.
    """

    steps: int = 16
    shift: float = 1.0
    time_scale: float = 1.0
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.shift <= 0:
            raise ValueError(f"a flow needs steps >= 1 and shift > 0, got {self.steps} and {self.shift}")
        if self.sigmas is not None and len(self.sigmas) != self.steps + 1:
            raise ValueError(f"{self.steps} steps need {self.steps + 1} sigmas, got {len(self.sigmas)}")

    def levels(self) -> Levels:
        if self.sigmas is not None:
            s = torch.tensor(self.sigmas, dtype=torch.float64)
        else:
            s = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)
            s = self.shift * s / (1 + (self.shift - 1) * s)
        return Levels(s[:-1] * self.time_scale, 1 - s, s)

    def training_time(self, uniform: Tensor) -> Tensor:
        # Not 0: a clean sample teaches nothing about its noise.
        return (1e-3 + (1 - 1e-3) * uniform) * self.time_scale

    def marginal(self, time: Tensor) -> tuple[Tensor, Tensor]:
        s = time / self.time_scale
        return 1 - s, s


def cosine_betas(count: int, most: float = 0.999) -> tuple[float, ...]:
    """beta_t = 1 - f(t + 1) / f(t), f(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2) (arXiv 2102.09672, eq. 17)."""

    def kept(t: float) -> float:
        return math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2

    return tuple(min(1 - kept(t + 1) / kept(t), most) for t in range(count))


def linear_betas(count: int = 1000, first: float = 1e-4, last: float = 0.02) -> tuple[float, ...]:
    """DDPM's schedule (arXiv 2006.11239), from beta_0 to beta_{T-1}."""
    return tuple(torch.linspace(first, last, count, dtype=torch.float64).tolist())


@dataclass(frozen=True)
class VariancePreserving:
    """a = sqrt(abar_t), b = sqrt(1 - abar_t), abar_t = prod (1 - beta); sampled at `steps` of the T training times.

    times: the K sampled times, noisiest first (None: K evenly spaced multiples of T // K, down to 0). last: abar of
    the clean level. kept: abar at every training time, where betas alone do not give a library's own rounding of it.
    """

    betas: tuple[float, ...]
    steps: int
    times: tuple[int, ...] | None = None
    last: float = 1.0
    kept: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= len(self.betas):
            raise ValueError(f"steps must be 1 to the {len(self.betas)} training times, not {self.steps}")
        if self.times is not None and len(self.times) != self.steps:
            raise ValueError(f"{self.steps} steps need {self.steps} times, got {len(self.times)}")

    @functools.cached_property
    def _kept(self) -> Tensor:
        if self.kept is not None:
            return torch.tensor(self.kept, dtype=torch.float64)
        return (1 - torch.tensor(self.betas, dtype=torch.float64)).cumprod(0)

    def levels(self) -> Levels:
        if self.times is None:
            time = torch.arange(self.steps - 1, -1, -1) * (len(self.betas) // self.steps)
        else:
            time = torch.tensor(self.times)
        kept = torch.cat([self._kept[time], torch.tensor([self.last], dtype=torch.float64)])
        return Levels(time.double(), kept.sqrt(), (1 - kept).sqrt())

    def training_time(self, uniform: Tensor) -> Tensor:
        return (uniform * len(self.betas)).floor().clamp(max=len(self.betas) - 1)

    def marginal(self, time: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._kept.to(time.device)[time.long()].to(time.dtype)
        return kept.sqrt(), (1 - kept).sqrt()
