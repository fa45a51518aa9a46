"""Denoising chains as data: noise levels, what a network predicts, how a latent moves from level to level.

Everywhere x_k = a_k x_0 + b_k eps with eps ~ N(0, I): `signal` a, `noise` b, level 0 the noisiest, level K clean.
A latent is a flat vector of D numbers; networks know the shape of an image. Pure functions, float64-capable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.policies.paths import Levels, Path, RectifiedFlow, VariancePreserving, cosine_betas
from policyopt.policies.transitions import AVERAGED, Density, Transition

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (N, D), network times (N,)) -> what the network predicts, (N, D)."""


# -- predictions: u = p x_0 + q eps ------------------------------------------------------------------------------
class Prediction(Protocol):
    """What a network predicts: u = p x_0 + q eps."""

    def mixture(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class PredictsNoise:
    """u = eps."""

    def mixture(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(signal), torch.ones_like(signal)


@dataclass(frozen=True)
class PredictsSample:
    """u = x_0."""

    def mixture(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(signal), torch.zeros_like(signal)


@dataclass(frozen=True)
class PredictsV:
    """u = a eps - b x_0 (arXiv 2202.00512)."""

    def mixture(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return -noise, signal


@dataclass(frozen=True)
class PredictsVelocity:
    """u = eps - x_0, the velocity of a rectified flow towards the noise."""

    def mixture(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(signal), torch.ones_like(signal)


def clean_and_noise(
    prediction: Prediction, u: Tensor, latent: Tensor, signal: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """x_0 = (q x - b u) / (a q - b p) and eps = (a u - p x) / (a q - b p), of x = a x_0 + b eps, u = p x_0 + q eps."""
    p, q = prediction.mixture(signal, noise)
    det = signal * q - noise * p
    return (q * latent - noise * u) / det, (signal * u - p * latent) / det


# -- solvers: from level to level ----------------------------------------------------------------------------------
class Solver(Protocol):
    """The Gaussian over the latent of the next level."""

    def std(self, levels: Levels) -> Tensor:
        """(K,) of every step; 0: deterministic."""
        ...

    def mean(self, chain: NoiseChain, predict: Predict, latent: Tensor, index: Tensor) -> Tensor:
        """(N, D) from latents (N, D) at steps (N,)."""
        ...


@dataclass(frozen=True)
class Ddim:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): x' = a' x_0 + sqrt(b'^2 - sd^2) eps + sd xi,
    sd = eta (b' / b) sqrt(1 - a^2 / a'^2). eta = 1 is DDPM with the posterior's variance, eta = 0 deterministic."""

    eta: float = 1.0

    def std(self, levels: Levels) -> Tensor:
        a, b = levels.signal, levels.noise
        return self.eta * b[1:] / b[:-1] * (1 - (a[:-1] / a[1:]) ** 2).clamp(min=0).sqrt()

    def mean(self, chain: NoiseChain, predict: Predict, latent: Tensor, index: Tensor) -> Tensor:
        _, _, a, b = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        raw = chain.raw_std.to(latent)[index][:, None]
        return a * clean + (b**2 - raw**2).clamp(min=0).sqrt() * noise


@dataclass(frozen=True)
class FlowSde:
    """A flow's ODE as an SDE with the same marginals (arXiv 2505.07818, eq. 4 and 5; 2505.05470):
    x' = x + d v - eta^2 / 2 score d + eta sqrt(-d) xi, d = s' - s < 0, v = eps - x_0, score = -eps / s.

    eta = 0 is an Euler step of the ODE. The last step is deterministic, and so gives x_0 as seen from it, unless
    `noisy_end`.
    """

    eta: float = 0.3
    noisy_end: bool = False

    def _eta(self, levels: Levels) -> Tensor:
        eta = torch.full_like(levels.time, self.eta)
        if not self.noisy_end:
            eta[-1] = 0
        return eta

    def std(self, levels: Levels) -> Tensor:
        return self._eta(levels) * (levels.noise[:-1] - levels.noise[1:]).sqrt()

    def mean(self, chain: NoiseChain, predict: Predict, latent: Tensor, index: Tensor) -> Tensor:
        _, s, _, after = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        eta = self._eta(chain.levels).to(latent)[index][:, None]
        d = after - s
        return latent + d * (noise - clean) + 0.5 * eta**2 * (noise / s) * d


@dataclass(frozen=True)
class Heun:
    """Heun's second-order step of a flow's ODE, deterministic; the last step is Euler's. For making samples."""

    def std(self, levels: Levels) -> Tensor:
        return torch.zeros_like(levels.time)

    def mean(self, chain: NoiseChain, predict: Predict, latent: Tensor, index: Tensor) -> Tensor:
        _, s, _, after = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        first = noise - clean
        arrived = latent + (after - s) * first
        # Behind the last level there is no velocity; the value computed for those rows is not used.
        ahead = (index + 1).clamp(max=chain.steps - 1)
        clean, noise = chain.decomposed(predict, arrived, ahead)
        return torch.where(
            (index + 1 < chain.steps)[:, None], latent + (after - s) * (first + noise - clean) / 2, arrived
        )


# -- the chain -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NoiseChain:
    """A latent's way from noise to sample in K steps, each a Gaussian over the next latent.

    density: how log-densities reduce over D, by name (trap: a mean makes a ratio the D-th root). min_std: least std of
    every step, in sampling and in the density; density_min_std: a higher least one for the density alone. noise_clip:
    bound on the noise when sampling. clip_clean: bound on the predicted x_0; keeps_noise: eps is then not recomputed
    from it.
    """

    path: Path
    solver: Solver
    prediction: Prediction
    density: Density = AVERAGED
    min_std: float = 0.0
    density_min_std: float = 0.0
    noise_clip: float | None = None
    clip_clean: float | None = None
    keeps_noise: bool = False

    def __post_init__(self) -> None:
        flow = isinstance(self.path, RectifiedFlow)
        if flow == isinstance(self.solver, Ddim):
            raise ValueError(
                f"{type(self.solver).__name__} does not solve {type(self.path).__name__}: use Ddim with "
                "VariancePreserving, FlowSde or Heun with RectifiedFlow"
            )

    @property
    def steps(self) -> int:
        return self.path.steps

    @functools.cached_property
    def levels(self) -> Levels:
        return self.path.levels()

    @functools.cached_property
    def raw_std(self) -> Float[Tensor, " K"]:
        """(K,) of the solver, without the floor."""
        return self.solver.std(self.levels)

    @functools.cached_property
    def std(self) -> Float[Tensor, " K"]:
        """(K,) of every step as sampled; 0: the step is deterministic and has no density."""
        return self.raw_std.clamp(min=self.min_std)

    def decomposed(self, predict: Predict, latent: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted x_0 and eps (N, D) of latents at steps (N,)."""
        a, b, _, _ = self.levels.at(index, latent)
        u = predict(latent, self.levels.time.to(latent)[index])
        clean, noise = clean_and_noise(self.prediction, u, latent, a, b)
        if self.clip_clean is None:
            return clean, noise
        clean = clean.clamp(-self.clip_clean, self.clip_clean)
        return clean, noise if self.keeps_noise else (latent - a * clean) / b

    def transition(self, predict: Predict, latent: Tensor, index: Tensor) -> Transition:
        """The next latent's distribution (N, D), of latents (N, D) at steps (N,) in 0..K-1."""
        mean = self.solver.mean(self, predict, latent, index)
        return self.gaussian(mean, self.std.to(mean)[index][:, None].expand_as(mean))

    def gaussian(self, mean: Tensor, std: Tensor) -> Transition:
        """In this chain's conventions; densities are at least float32."""
        mean = mean.float() if mean.dtype in (torch.float16, torch.bfloat16) else mean
        return Transition(mean, std.to(mean.dtype), self.density, self.density_min_std, self.noise_clip)

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: the noised latent, what the network should say, and how far an error of 1 in that moves x_0.
        clean, noise (..., D), time (...)."""
        a, b = (level[..., None] for level in self.path.marginal(time))
        p, q = self.prediction.mixture(a, b)
        return a * clean + b * noise, p * clean + q * noise, (b / (a * q - b * p)).abs()

    def report(self, dims: int, clip: float) -> dict[str, Any]:
        """What the conventions mean: the density, its effective clip range and the std of every step."""
        return {
            "density": type(self.density).__name__,
            "clip": clip,
            "effective_clip": self.density.effective_clip(clip, dims),
            "std": self.std.tolist(),
        }


def flow(steps: int = 16, eta: float = 0.3, shift: float = 1.0, **options: Any) -> NoiseChain:
    """A rectified flow: an ODE for eta = 0, else an SDE with the same marginals; the network predicts the velocity."""
    return NoiseChain(RectifiedFlow(steps, shift), FlowSde(eta), PredictsVelocity(), **options)


def heun_flow(steps: int = 6, shift: float = 1.0, **options: Any) -> NoiseChain:
    """A rectified flow solved by few second-order steps, deterministic."""
    return NoiseChain(RectifiedFlow(steps, shift), Heun(), PredictsVelocity(), **options)


def diffusion(steps: int = 20, eta: float = 1.0, betas: tuple[float, ...] | None = None, **options: Any) -> NoiseChain:
    """A diffusion model sampled by DDIM; the network predicts the noise. betas None: cosine, as many as steps."""
    given = cosine_betas(steps) if betas is None else betas
    options.setdefault("prediction", PredictsNoise())
    return NoiseChain(VariancePreserving(given, steps), Ddim(eta), **options)
