"""Heads of policies whose actions are numbers in a box. See `head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy  # its submodules are loaded where they are first used
import torch
from torch import Tensor
from torch.nn import functional as F

from policyopt.compose import CompositionError
from policyopt.distributions import Beta, Deterministic, Distribution, Gaussian, SquashedGaussian, standard_normal
from policyopt.policies.bodies import MLP
from policyopt.policies.head import Head
from policyopt.policies.spaces import Actions, Box

_EDGE = 1e-6  # recorded actions at a bound are taken as this far inside (of a range of 2): their raw step is infinite


class _Continuous(Head):
    """Heads over boxes."""

    actions = Box
    must_be_bounded: ClassVar[bool] = True

    def check(self, actions: Actions) -> None:
        super().check(actions)
        if self.must_be_bounded and isinstance(actions, Box) and not actions.bounded:
            raise CompositionError(
                f"head {self.name!r} fills the action space and needs finite bounds, not {actions.low}, "
                f"{actions.high}; use head='gaussian' or a rescaling wrapper"
            )

    def outputs(self, actions: Box) -> int:
        return actions.size


def _to_world(xp: Any, x: Any, low: Any, high: Any) -> Any:
    """[-1, 1] -> [low, high], and clipped to it."""
    return _clipped(xp, low + (x + 1) * (0.5 * (high - low)), low, high)


def _clipped(xp: Any, x: Any, low: Any, high: Any) -> Any:
    return xp.minimum(xp.maximum(x, low), high)  # numpy's clip takes several times as long for small arrays


def _from_world(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return 2 * (action - low) / (high - low) - 1


class _Normal(_Continuous):
    """Heads whose samples are mean + std * noise."""

    def noise(self, uniform: Tensor) -> Tensor:
        return standard_normal(uniform)


@dataclass(frozen=True)
class GaussianHead(_Normal):
    """A normal distribution in the action space's own units with a free standard deviation (Schulman et al. 2017).
    Actions are clipped at the world only: the density is that of the unclipped sample."""

    initial_log_std: float = 0.0

    name = "gaussian"
    must_be_bounded = False

    def free(self, actions: Box) -> int:
        return actions.size

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Box) -> Gaussian:
        assert log_std is not None
        return Gaussian(out, log_std.exp().expand_as(out))

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Box) -> Any:
        return out if noise is None else out + np.exp(log_std) * noise.astype(out.dtype)

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return _clipped(xp, step, low, high)

    def bounded(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        finite = (high - low).isfinite()
        span = torch.where(finite, high - low, 1.0)
        scaled = 2 * (torch.clamp(step, low, high) - torch.where(finite, low, 0.0)) / span - 1
        return torch.where(finite, scaled, step)


@dataclass(frozen=True)
class StateGaussianHead(_Normal):
    """A normal distribution whose standard deviation depends on the state; log_std: the range it is clamped to."""

    log_std: tuple[float, float] = (-5.0, 2.0)

    name = "gaussian_state"
    must_be_bounded = False

    def outputs(self, actions: Box) -> int:
        return 2 * actions.size

    def _normal(self, out: Tensor) -> Gaussian:
        mean, log_std = out.chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*self.log_std).exp())

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Box) -> Distribution:
        return self._normal(out)

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Box) -> Any:
        mean, spread = np.split(out, 2, axis=-1)
        if noise is None:
            return mean
        return mean + np.exp(_clipped(np, spread, *self.log_std)) * noise.astype(out.dtype)

    emit = GaussianHead.emit
    bounded = GaussianHead.bounded


@dataclass(frozen=True)
class SquashedHead(StateGaussianHead):
    """tanh of a normal distribution whose standard deviation depends on the state, rescaled to the bounds (SAC,
    arXiv 1801.01290). The raw step is the sample before the tanh."""

    log_std: tuple[float, float] = (-20.0, 2.0)

    name = "squashed"
    must_be_bounded = True
    body = MLP((256, 256), "relu")

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Box) -> Distribution:
        return SquashedGaussian(self._normal(out))

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return _to_world(xp, xp.tanh(step), low, high)

    def receive(self, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return _from_world(action, low, high).clamp(-1 + _EDGE, 1 - _EDGE).atanh()

    def bounded(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return step.tanh()


@dataclass(frozen=True)
class DeterministicHead(_Normal):
    """tanh of the output, explored around with normal noise of the level's standard deviation, in units of half the
    bounds' range (TD3, arXiv 1802.09477). The raw step may lie outside [-1, 1]; it is clipped where it is used."""

    name = "deterministic"
    body = MLP((256, 256), "relu")

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Box) -> Deterministic:
        mean = out.tanh()
        return Deterministic(mean, level.to(mean.dtype)[..., None].expand_as(mean))

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Box) -> Any:
        mean = np.tanh(out)
        if noise is None:
            return mean
        return mean + np.asarray(level, out.dtype)[..., None] * noise.astype(out.dtype)

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return _to_world(xp, step, low, high)

    def receive(self, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return _from_world(action, low, high)

    def bounded(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return step.clamp(-1, 1)


@dataclass(frozen=True)
class BetaHead(_Continuous):
    """Beta(1 + softplus, 1 + softplus) on the bounds' range: one peak, no mass outside (Chou et al. 2017)."""

    name = "beta"

    def outputs(self, actions: Box) -> int:
        return 2 * actions.size

    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Box) -> Beta:
        a, b = (1 + F.softplus(out)).chunk(2, -1)
        return Beta(a, b)

    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Box) -> Any:
        a, b = np.split(1 + np.logaddexp(out, 0), 2, axis=-1)
        if noise is None:
            total = np.maximum(a + b - 2, np.finfo(out.dtype).tiny)
            return (a - 1) / total
        limits = np.finfo(out.dtype)
        found = scipy.special.betaincinv(a.astype(np.float64), b.astype(np.float64), noise).astype(out.dtype)
        return np.clip(found, limits.tiny, 1 - limits.eps)

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return _to_world(xp, 2 * step - 1, low, high)

    def receive(self, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return ((action - low) / (high - low)).clamp(0.5 * _EDGE, 1 - 0.5 * _EDGE)

    def bounded(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return 2 * step - 1
