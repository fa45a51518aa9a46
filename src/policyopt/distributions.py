"""Distributions over one step. Imports nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import scipy  # its submodules are loaded where they are first used
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class NoDensityError(ValueError):
    """A density was asked of a distribution that has none: all its mass is on one point."""


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


@runtime_checkable
class Reparameterised(Protocol):
    """A distribution whose samples are a differentiable function of its parameters."""

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (..., D) from standard normal noise (..., D), and their log-density (...), both with gradient."""
        ...


class _OfParameters:
    """A distribution whose fields are its parameters, tensors or distributions of the same leading axes."""

    def _each(self, change: Callable[[Any], Any]) -> Self:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))  # pyright: ignore[reportArgumentType]

    def detach(self) -> Self:
        return self._each(lambda parameter: parameter.detach())

    def __getitem__(self, index: Any) -> Self:
        return self._each(lambda parameter: parameter[index])


def _expected(logp: Tensor, value: Tensor) -> Tensor:
    """sum_v p(v) value(v) over the last axis. A choice of probability 0 contributes 0, in value and in gradient:
    0 * -inf is nan, and so is its derivative unless the value is selected before it is multiplied."""
    p = logp.exp()
    return (p * torch.where(p > 0, value, 0.0)).sum(-1)


@dataclass(frozen=True)
class Categorical(_OfParameters):
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


@dataclass(frozen=True)
class MultiCategorical(_OfParameters):
    """M independent choices, of possibly different numbers of alternatives, as one step (..., M) of integers.

    `parts.logp` (..., M, V): padded with minus infinity behind the alternatives a choice has.
    """

    parts: Categorical

    @staticmethod
    def of(logits: Float[Tensor, "*lead total"], sizes: tuple[int, ...]) -> MultiCategorical:
        """logits: the choices' logits one after another; sizes: how many each has."""
        if logits.shape[-1] != sum(sizes):
            raise ValueError(f"choices of sizes {sizes} need {sum(sizes)} logits, not {logits.shape[-1]}")
        places = torch.arange(max(sizes), device=logits.device)
        count = torch.tensor(sizes, device=logits.device)
        index = (count.cumsum(0) - count)[:, None] + places
        absent = places >= count[:, None]
        # Absent alternatives read some other logit, which the mask replaces.
        padded = logits[..., index.clamp(max=logits.shape[-1] - 1)].masked_fill(absent, -math.inf)
        return MultiCategorical(Categorical.of(padded))

    @property
    def width(self) -> int:
        return self.parts.logp.shape[-2]

    def log_prob(self, step: Tensor) -> Tensor:
        return self.parts.log_prob(step).sum(-1)

    def entropy(self) -> Tensor:
        return self.parts.entropy().sum(-1)

    def kl(self, other: MultiCategorical) -> Tensor:
        """KL(self || other), exact, >= 0."""
        return self.parts.kl(other.parts).sum(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """uniform (..., M): a number per choice."""
        return self.parts.sample(uniform[..., None])

    def mode(self) -> Tensor:
        return self.parts.mode()

    def tempered(self, temperature: Tensor) -> MultiCategorical:
        return MultiCategorical(self.parts.tempered(temperature[..., None]))


def epsilon_greedy(values: Float[Tensor, "*lead A"], epsilon: Tensor | float) -> Categorical:
    """The best choice (the first of equals) with probability 1 - epsilon, else any choice alike; epsilon (...).

    No gradient: the probabilities are constant almost everywhere. With epsilon 0 the other choices have
    log-probability minus infinity.
    """
    values = values.detach()
    level = torch.as_tensor(epsilon, dtype=values.dtype, device=values.device).expand(values.shape[:-1])[..., None]
    best = F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
    return Categorical((level / values.shape[-1] + (1 - level) * best).log())


def standard_normal(uniform: Tensor) -> Tensor:
    """The normal quantile function in the widest type, clamped because the quantile of 0 is minus infinity."""
    wide = widest(uniform.device)
    tiny = torch.finfo(wide).eps
    return torch.special.ndtri(uniform.to(wide).clamp(tiny, 1 - tiny))


@dataclass(frozen=True)
class Gaussian(_OfParameters):
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
        return self.mean + self.std * standard_normal(uniform).to(self.mean.dtype)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        step = self.mean + self.std * noise
        return step, self.log_prob(step)

    def mode(self) -> Tensor:
        return self.mean

    def tempered(self, temperature: Tensor) -> Gaussian:
        return replace(self, std=self.std * temperature[..., None].sqrt())


def tanh_log_slope(u: Tensor) -> Tensor:
    """log (d tanh u / du) = log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), finite for every finite u where the
    left-hand side rounds to minus infinity (from |u| about 9 in float32, SAC's appendix C, arXiv 1801.01290)."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


_NODES, _WEIGHTS = np.polynomial.hermite.hermgauss(32)


@dataclass(frozen=True)
class SquashedGaussian(_OfParameters):
    """The distribution of tanh(u) in (-1, 1)^D for u of a diagonal normal. Its *step is u*, before the tanh:
    atanh of a stored action is not the sample that was scored, near 1 not even finite.

    log_prob(u) is the density of tanh(u), the log-determinant of tanh included (arXiv 1801.01290, eq. 21).
    """

    base: Gaussian

    @property
    def width(self) -> int:
        return self.base.width

    def log_prob(self, step: Tensor) -> Tensor:
        return self.base.log_prob(step) - tanh_log_slope(step).sum(-1)

    def entropy(self) -> Tensor:
        """H(u) + E[log-determinant]; the expectation has no closed form and is Gauss-Hermite quadrature of 32 nodes
        per dimension: error below 1e-7 for std up to 1, 2e-4 at 2, 1e-2 at 4, 0.1 at 7.4 = exp(2)."""
        nodes = torch.as_tensor(math.sqrt(2) * _NODES, dtype=self.base.mean.dtype, device=self.base.mean.device)
        weights = torch.as_tensor(_WEIGHTS / math.sqrt(math.pi), dtype=nodes.dtype, device=nodes.device)
        at_nodes = tanh_log_slope(self.base.mean[..., None] + self.base.std[..., None] * nodes)
        return self.base.entropy() + (at_nodes * weights).sum((-2, -1))

    def kl(self, other: SquashedGaussian) -> Tensor:
        """KL(self || other), exact: a bijection of both sides leaves it as it is."""
        return self.base.kl(other.base)

    def sample(self, uniform: Tensor) -> Tensor:
        return self.base.sample(uniform)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        step = self.base.mean + self.base.std * noise
        return step, self.log_prob(step)

    def mode(self) -> Tensor:
        """The base's mode, which tanh makes the median of the action (the density itself may be largest at +-1)."""
        return self.base.mode()

    def tempered(self, temperature: Tensor) -> SquashedGaussian:
        """The base at that temperature."""
        return SquashedGaussian(self.base.tempered(temperature))


@dataclass(frozen=True)
class Deterministic(_OfParameters):
    """A point `mean` (..., D) that is explored around with normal noise of `std` (..., D), which may be 0.

    Where std is 0 there is no density: `log_prob` is nan there (as for steps that nobody sampled), entropy and kl
    are refused, and policies report such scores as not exact, so that ratios refuse them.
    """

    mean: Float[Tensor, "*lead D"]
    std: Float[Tensor, "*lead D"]

    @property
    def width(self) -> int:
        return self.mean.shape[-1]

    @property
    def exact(self) -> bool:
        """Whether it has a density everywhere."""
        return bool((self.std > 0).all())

    def log_prob(self, step: Tensor) -> Tensor:
        spread = (self.std > 0).all(-1)
        safe = torch.where(spread[..., None], self.std, 1.0)
        return torch.where(spread, Gaussian(self.mean, safe).log_prob(step), math.nan)

    def entropy(self) -> Tensor:
        return self._density("entropy").entropy()

    def kl(self, other: Deterministic) -> Tensor:
        return self._density("KL").kl(other._density("KL"))

    def _density(self, what: str) -> Gaussian:
        if not self.exact:
            raise NoDensityError(
                f"{what} needs a density, and a deterministic policy without exploration noise has none; give it "
                "noise, or use an objective without densities"
            )
        return Gaussian(self.mean, self.std)

    def sample(self, uniform: Tensor) -> Tensor:
        return Gaussian(self.mean, self.std).sample(uniform)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """With the exploration noise; the pathwise gradient of the policy alone goes through `mode()`."""
        step = self.mean + self.std * noise
        return step, self.log_prob(step)

    def mode(self) -> Tensor:
        return self.mean

    def tempered(self, temperature: Tensor) -> Deterministic:
        return replace(self, std=self.std * temperature[..., None].sqrt())


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


@dataclass(frozen=True)
class Beta(_OfParameters):
    """D independent Beta(a, b) numbers in (0, 1); densities are summed over D."""

    a: Float[Tensor, "*lead D"]
    b: Float[Tensor, "*lead D"]

    @property
    def width(self) -> int:
        return self.a.shape[-1]

    def log_prob(self, step: Tensor) -> Tensor:
        return ((self.a - 1) * step.log() + (self.b - 1) * (-step).log1p() - _log_beta(self.a, self.b)).sum(-1)

    def entropy(self) -> Tensor:
        a, b = self.a, self.b
        inner = (a - 1) * a.digamma() + (b - 1) * b.digamma() - (a + b - 2) * (a + b).digamma()
        return (_log_beta(a, b) - inner).sum(-1)

    def kl(self, other: Beta) -> Tensor:
        """KL(self || other), exact, >= 0."""
        a, b, c, d = self.a, self.b, other.a, other.b
        slopes = (a - c) * a.digamma() + (b - d) * b.digamma() + (c - a + d - b) * (a + b).digamma()
        return (_log_beta(c, d) - _log_beta(a, b) + slopes).sum(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Inverse of the cumulative distribution (SciPy's, on the CPU); never 0 or 1, where a density may be
        infinite."""
        a, b, u = (x.detach().cpu().double().numpy() for x in (self.a, self.b, uniform))
        found = torch.as_tensor(scipy.special.betaincinv(a, b, u), device=self.a.device).to(self.a.dtype)
        limits = torch.finfo(self.a.dtype)
        return found.clamp(limits.tiny, 1 - limits.eps)

    def mode(self) -> Tensor:
        """Where both parameters exceed 1 the mode; elsewhere the mean, as the density has no single inner peak."""
        peaked = (self.a > 1) & (self.b > 1)
        inner = (self.a - 1) / torch.where(peaked, self.a + self.b - 2, 1.0)
        return torch.where(peaked, inner, self.a / (self.a + self.b))

    def tempered(self, temperature: Tensor) -> Beta:
        """Proportional to density^(1 / temperature). ValueError: that has no finite integral."""
        heat = temperature[..., None]
        a, b = (self.a - 1) / heat + 1, (self.b - 1) / heat + 1
        if not bool((torch.minimum(a, b) > 0).all()):
            raise ValueError("a Beta density that is infinite at an end can not be made colder; use temperature 1")
        return Beta(a, b)
