"""Models that a method needs beside its policy, as data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from policyopt.compose.protocols import CompositionError, MissingModelError


class ModelSpec(Protocol):
    renewed: ClassVar[bool]  # made again by every stage that declares it, or kept once made

    def build(self, run: Any, name: str) -> nn.Module: ...


def frozen(model: nn.Module) -> nn.Module:
    """A detached copy whose parameters do not require gradients."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


@dataclass(frozen=True)
class Copy:
    """A frozen copy of another model, made when the stage begins."""

    of: str = "policy"
    renewed: ClassVar[bool] = True

    def build(self, run: Any, name: str) -> nn.Module:
        return frozen(run.models[self.of])


@dataclass(frozen=True)
class Twin:
    """A copy of another model, made when the stage begins, that is trained as its original is."""

    of: str = "policy"
    renewed: ClassVar[bool] = True

    def build(self, run: Any, name: str) -> nn.Module:
        return copy.deepcopy(run.models[self.of])


@dataclass(frozen=True)
class Critic:
    """A value model made by the policy's own kind (`policy.make_critic(rng)`)."""

    of: str = "policy"
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        return run.models[self.of].make_critic(run.rng(f"build/{name}"))


@dataclass(frozen=True)
class QCritic:
    """`heads` action values Q(s, a) made by the policy's own kind (`policy.make_q(rng, heads)`)."""

    of: str = "policy"
    heads: int = 2
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        instead = "use a method with a state value (Critic) or without critic"
        make = _maker(run, self.of, name, "make_q", "is an action value", instead)
        return make(run.rng(f"build/{name}"), self.heads)


@dataclass(frozen=True)
class RewardModel:
    """A number for every whole row, made by the policy's own kind (`policy.make_reward(rng)`), read by
    `Seen.worth`. context: what rows are read under, if not their prompt: `REFERENCE_ANSWER` conditions the model on the
    task's own answer."""

    of: str = "policy"
    context: str | None = None
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        instead = "use a language policy or a table, or give the model as an object with `worth(batch) -> (B,)`"
        make = _maker(run, self.of, name, "make_reward", "is a reward model of rows", instead)
        return _reading(make(run.rng(f"build/{name}")), name, self.context)


@dataclass(frozen=True)
class PreferenceModel:
    """How far a row is preferred to another of its task, made by the policy's own kind (`policy.make_preference(rng,
    dimension)`), read by `Seen.compare`. dimension: of an answer's representation, even. context: as of `RewardModel`.
    """

    of: str = "policy"
    dimension: int = 6
    context: str | None = None
    renewed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dimension < 2 or self.dimension % 2:
            raise CompositionError(f"representations of preferences have an even dimension, not {self.dimension}")

    def build(self, run: Any, name: str) -> nn.Module:
        instead = "a language policy or a table, or give the model as an object with `compare(batch, first, second)`"
        make = _maker(run, self.of, name, "make_preference", "compares rows", f"use {instead}")
        return _reading(make(run.rng(f"build/{name}"), self.dimension), name, self.context)


def _maker(run: Any, of: str, name: str, method: str, what: str, instead: str) -> Callable[..., nn.Module]:
    """What makes a model of the policy's own kind. CompositionError: this kind of policy has none."""
    policy = run.models[of]
    if not hasattr(policy, method):
        kind = type(policy).__name__
        raise CompositionError(f"model {name!r} {what}, which {kind} policies do not offer; {instead}")
    return getattr(policy, method)


def _reading(model: Any, name: str, context: str | None) -> nn.Module:
    """The model, made to read rows under a context of its own."""
    if context is not None:
        if not hasattr(model, "context"):
            raise CompositionError(
                f"model {name!r} reads rows under the context {context!r}, which {type(model).__name__} can not; use a "
                "language policy, or context=None"
            )
        model.context = context
    return model


@dataclass(frozen=True)
class StepDenoiser:
    """A denoising model of steps given states, made by the policy's own kind (`policy.make_denoiser(rng)`)."""

    of: str = "policy"
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        what = "is a diffusion model of steps that are numbers"
        instead = "use a control policy, or give the model as an object with `renoised`"
        return _maker(run, self.of, name, "make_denoiser", what, instead)(run.rng(f"build/{name}"))


class Positive(nn.Module):
    """One number above 0 that is trained: a temperature, a dual variable. Stored as its logarithm."""

    def __init__(self, initial: float, like: Tensor):
        super().__init__()
        self.log = nn.Parameter(torch.full_like(like, math.log(initial)))

    def scalar(self) -> Tensor:
        return self.log.exp()


@dataclass(frozen=True)
class Scalar:
    """A trained number above 0 (`Seen.scalar`)."""

    initial: float = 1.0
    renewed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.initial <= 0:
            raise CompositionError(f"a Scalar is above 0, not {self.initial}")

    def build(self, run: Any, name: str) -> nn.Module:
        return Positive(self.initial, next(run.models["policy"].parameters()).detach().new_zeros(()))


@dataclass(frozen=True)
class Given:
    """A model that the user supplies."""

    what: str
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        raise MissingModelError(
            f"this method needs {self.what}; give it as models.{name} (a model folder), or let an earlier stage make it"
        )
