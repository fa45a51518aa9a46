"""Losses of critics of states and steps. Their targets are fixed over a whole optimiser step: `plan` computes them.

Every formula is of single transitions (s, a, r, s'): a step, the state before it and the one that follows. A step that
ended its episode (`Finish.STOPPED`) is worth its reward; a row that was cut or goes on is worth what follows as well.
`bootstrap` parts say what the state that follows is worth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from policyopt.compose import CompositionError, Loss, Part, Seen, named_by
from policyopt.ops.masked import select
from policyopt.ops.sequences import last_own
from policyopt.types import Batch, Categorical, Finish

Heads = Literal["least", "first", "mean"]


def over_heads(q: Tensor, heads: Heads) -> Tensor:
    """(E, ...) -> (...): the least value (clipped double Q-learning, arXiv 1802.09477), the first or the mean."""
    return q.amin(0) if heads == "least" else q[0] if heads == "first" else q.mean(0)


def check_heads(heads: str) -> None:
    if heads not in get_args(Heads):
        raise CompositionError(f"heads is one of {', '.join(get_args(Heads))}, not {heads!r}")


def check_discount(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise CompositionError(f"gamma must be in 0..1, got {gamma}")


def ended(batch: Batch) -> Bool[Tensor, "B T"]:
    """Steps after which nothing follows: the last ones of rows that stopped. A limit ends no episode."""
    return last_own(batch) & (batch.row["finish"] == Finish.STOPPED)[:, None]


def own_noise(seen: Seen, purpose: str) -> Tensor | None:
    """Standard normal numbers (B, T, D) for the policy's own steps; None if steps are choices, whose expectations are
    exact."""
    taken = seen.taken()
    if not taken.is_floating_point():
        return None
    return torch.randn(taken.shape, generator=seen.rng(purpose), dtype=taken.dtype).to(taken.device)


def expected(dist: Categorical, values: Tensor) -> Tensor:
    """sum_a pi(a) values(a); a choice of probability 0 adds 0, whatever its value."""
    p = dist.logp.exp()
    return (p * torch.where(p > 0, values, 0.0)).sum(-1)


def own_steps(
    seen: Seen, dist: Any, noise: Tensor | None, critic: str, heads: Heads, *, following: bool = False
) -> tuple[Tensor, Tensor]:
    """(B, T) the action value and the log-density of a distribution's own steps, with gradient through them: of a
    draw, or exact expectations over finitely many choices."""
    if isinstance(dist, Categorical):
        return expected(dist, over_heads(seen.q_all(critic, following=following), heads)), -dist.entropy()
    if noise is None or not hasattr(dist, "draw"):
        raise CompositionError(
            f"the gradient through a policy's own steps needs choices or a reparameterised distribution, not "
            f"{type(dist).__name__}; use another head, or a method with log-probabilities only"
        )
    steps, logp = dist.draw(noise)
    return over_heads(seen.q(critic, steps, following=following), heads), logp


def amount(seen: Seen, temperature: float | str) -> float | Tensor:
    """A number, or what a `Scalar` model holds now (without gradient: it has a loss of its own)."""
    return seen.scalar(temperature).detach() if isinstance(temperature, str) else temperature


def named(temperature: float | str) -> tuple[str, ...]:
    """The model of a temperature, if it is one."""
    return (temperature,) if isinstance(temperature, str) else ()


class Bootstrap(Part, ABC):
    """V(s') (B, T): what the state after each step is worth, without gradient."""

    needs = "action values"

    @abstractmethod
    def __call__(self, seen: Seen, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class GreedyValue(Bootstrap):
    """The best choice's value. chooser: the model that says which is best (double Q-learning, arXiv 1509.06461)."""

    critic: str = "target"
    chooser: str | None = None

    formula = "max_a Q'(s', a)"

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.critic,) if self.chooser is None else (self.critic, self.chooser)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        values = seen.q_all(self.critic, following=True).amin(0)
        if self.chooser is None:
            return values.amax(-1)
        best = seen.q_all(self.chooser, following=True).amin(0).argmax(-1)
        return values.gather(-1, best[..., None])[..., 0]


@dataclass(frozen=True)
class PolicyValue(Bootstrap):
    """The value of the policy's own next step, less its log-density times a temperature: a number (0 for plain
    expected values) or the name of a `Scalar`."""

    critic: str = "target"
    role: str = "policy"
    temperature: float | str = 0.0
    heads: Heads = "least"

    formula = "min_e Q'_e(s', a') - alpha log pi(a'|s'), a' ~ pi(.|s')"
    roles = named_by("role")

    def __post_init__(self) -> None:
        check_heads(self.heads)

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.critic, *named(self.temperature))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        dist = seen.at(self.role, following=True)
        value, logp = own_steps(seen, dist, own_noise(seen, "next step"), self.critic, self.heads, following=True)
        return value - amount(seen, self.temperature) * logp


@dataclass(frozen=True)
class SmoothedValue(Bootstrap):
    """The value around the target policy's step (target policy smoothing, arXiv 1802.09477, eq. 14). noise, clip: in
    units of the raw step, which for a deterministic head is half the bounds' range."""

    critic: str = "target"
    role: str = "target_policy"
    noise: float = 0.2
    clip: float = 0.5

    formula = "min_e Q'_e(s', mu'(s') + clip(noise z, -clip, clip)), z ~ N(0, 1)"
    roles = named_by("role")
    critics = named_by("critic")

    def __post_init__(self) -> None:
        if self.noise < 0 or self.clip < 0:
            raise CompositionError(f"noise and clip must be at least 0, got {self.noise} and {self.clip}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        noise = own_noise(seen, "smoothing")
        if noise is None:
            raise CompositionError("smoothed targets add noise to steps, which choices are not; use GreedyValue")
        near = seen.at(self.role, following=True).mode() + (self.noise * noise).clamp(-self.clip, self.clip)
        return seen.q(self.critic, near, following=True).amin(0)


@dataclass(frozen=True)
class StateValue(Bootstrap):
    """What a state value says: of the steps that were recorded, never of others."""

    critic: str = "value"

    formula = "V(s')"
    critics = named_by("critic")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return seen.value(self.critic, following=True)


@dataclass(frozen=True)
class TemporalDifference(Loss):
    """Half the squared error of every head to r + gamma V(s'), summed over heads.

    huber: errors above it count linearly (with 1, the clipped error of DQN).
    """

    bootstrap: Bootstrap = GreedyValue()
    critic: str = "critic"
    gamma: float = 0.99
    huber: float | None = None

    formula = "sum_e (Q_e(s, a) - y)^2 / 2, y = r + gamma V(s'), V(s') = 0 after an end"
    needs = "action values"

    def __post_init__(self) -> None:
        check_discount(self.gamma)
        if self.huber is not None and self.huber <= 0:
            raise CompositionError(f"huber must be above 0, not {self.huber}; None turns it off")

    @property
    def roles(self) -> tuple[str, ...]:
        return self.bootstrap.roles

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.critic, *self.bootstrap.critics)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        # Selected, not multiplied: what a critic says of a state behind an end is arbitrary.
        worth = select(batch.own & ~ended(batch), self.bootstrap(seen, batch))
        return batch.with_steps({"_target": select(batch.trained, batch.step["reward"] + self.gamma * worth)})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        q = seen.q(self.critic)
        error = select(batch.trained.expand_as(q), q - batch.step["_target"])
        if self.huber is None:
            return 0.5 * (error**2).sum(0)
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.huber).sum(0)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"target": batch.step["_target"]}


@dataclass(frozen=True)
class ExpectileValue(Loss):
    """A state value that is an expectile of the recorded steps' values (IQL, arXiv 2110.06169, eq. 5): the mean at
    0.5, towards the best recorded step as expectile -> 1. No step is asked about that was not recorded."""

    expectile: float = 0.7
    value: str = "value"
    critic: str = "target"

    formula = "|tau - 1[u < 0]| u^2, u = min_e Q'_e(s, a) - V(s)"
    needs = "action values"
    critics = named_by("value", "critic")

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise CompositionError(f"expectile must be inside 0..1, not {self.expectile}")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        return batch.with_steps({"_target": select(batch.trained, seen.q(self.critic).amin(0))})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        above = batch.step["_target"] - select(batch.trained, seen.value(self.value))
        return torch.where(above < 0, 1 - self.expectile, self.expectile) * above**2


@dataclass(frozen=True)
class SoftStateValue(Loss):
    """A state value that is the policy's own: the least head less the temperature's share of log-density (SAC,
    arXiv 1801.01290, eq. 5; MDPO)."""

    temperature: float | str = 0.2
    value: str = "value"
    critic: str = "critic"

    formula = "(V(s) - (min_e Q_e(s, a) - alpha log pi(a|s)))^2 / 2, a ~ pi(.|s)"
    needs = "action values"

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.value, self.critic, *named(self.temperature))

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        value, logp = own_steps(seen, seen.at("policy"), own_noise(seen, "state value"), self.critic, "least")
        target = value - amount(seen, self.temperature) * logp
        return batch.with_steps({"_target": select(batch.trained, target)})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        value = select(batch.trained, seen.value(self.value))
        return 0.5 * (value - batch.step["_target"]) ** 2
