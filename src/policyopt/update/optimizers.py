"""Optimisers and learning-rate schedules, as data. Only an optimiser's `state_dict` is ever saved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Part
from policyopt.update.masters import LOW_PRECISION, Masters


def _within(name: str, value: float, least: float, below: float = math.inf) -> None:
    """CompositionError: an option is not in least <= value < below (so it is no nan)."""
    if not least <= value < below:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise CompositionError(
            f"an optimiser's {name} must be a finite number of at least {least:g}{bound}, not {value}"
        )


class Schedule(Part, ABC):
    """A factor on the learning rate, as a pure function of the stage's clock."""

    @abstractmethod
    def factor(self, step: int, total: int) -> float: ...


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


@dataclass(frozen=True)
class Constant(Schedule):
    """Linear warm-up over `warmup` rounds, then 1."""

    warmup: int = 0

    def factor(self, step: int, total: int) -> float:
        return _warm(step, self.warmup)


@dataclass(frozen=True)
class Linear(Schedule):
    """Linear warm-up, then linear decay to `final` at the end of the stage."""

    warmup: int = 0
    final: float = 0.0

    def factor(self, step: int, total: int) -> float:
        done = max(0, step - self.warmup) / max(1, total - self.warmup)
        return _warm(step, self.warmup) * (1 - (1 - self.final) * min(1.0, done))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up, then half a cosine down to `final` at the end of the stage."""

    warmup: int = 0
    final: float = 0.0

    def factor(self, step: int, total: int) -> float:
        done = min(1.0, max(0, step - self.warmup) / max(1, total - self.warmup))
        return _warm(step, self.warmup) * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


class Optimizer(Part, ABC):
    """A recipe for a torch optimiser. What is in 16 bit is trained by way of float32 copies (`Masters`)."""

    learning_rate: float
    schedule: Schedule

    def __post_init__(self) -> None:
        _within("learning_rate", self.learning_rate, 0.0)

    @abstractmethod
    def plain(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """torch's optimiser of parameters that are exact enough to be moved themselves."""

    def make(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if any(p.dtype in LOW_PRECISION for p in parameters):
            return Masters(parameters, self.plain)
        return self.plain(parameters)

    def at(self, step: int, total: int) -> float:
        """The learning rate in a round of the stage."""
        return self.learning_rate * self.schedule.factor(step, total)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        super().__post_init__()
        for place, beta in enumerate(self.betas):
            _within(f"betas[{place}]", beta, 0.0, 1.0)
        _within("weight_decay", self.weight_decay, 0.0)
        _within("epsilon", self.epsilon, 0.0)

    def plain(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        # Fused: one kernel for all parameters, where torch has one for their device.
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
        return torch.optim.AdamW(
            parameters, self.learning_rate, self.betas, self.epsilon, weight_decay=self.weight_decay, fused=fused
        )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Plain gradient descent, with momentum if asked."""

    learning_rate: float = 1e-2
    momentum: float = 0.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("momentum", self.momentum, 0.0, 1.0)

    def plain(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, self.learning_rate, self.momentum)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradients over the root of their moving mean square (Tieleman and Hinton 2012); epsilon outside the root."""

    learning_rate: float = 7e-4
    decay: float = 0.99
    epsilon: float = 1e-5
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("decay", self.decay, 0.0, 1.0)
        _within("epsilon", self.epsilon, 0.0)

    def plain(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, self.learning_rate, self.decay, self.epsilon)
