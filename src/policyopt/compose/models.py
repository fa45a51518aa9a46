"""Models that a method needs beside its policy, as data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from policyopt.compose.protocols import MissingModelError


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
class Critic:
    """A value model made by the policy's own kind (`policy.make_critic(rng)`)."""

    of: str = "policy"
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        return run.models[self.of].make_critic(run.rng(f"build/{name}"))


@dataclass(frozen=True)
class Given:
    """A model that the user supplies."""

    what: str
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        raise MissingModelError(f"this method needs {self.what}; give it as models.{name} (a model folder)")
