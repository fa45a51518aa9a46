"""Heads of control policies: from a network's outputs to a distribution over raw steps, and from those to actions.

A *raw step* is what the density is over and what batches store (`_action`); `emit` makes the world's action of it and
`bounded` what action values read: numbers in [-1, 1]. Emitting needs no parameters, so it never enters a ratio.
Functions that take `xp` serve torch tensors and numpy arrays alike (xp is the module). low, high: the bounds (D,) of a
box, or the number of the first alternative of discrete actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from policyopt.compose import CompositionError
from policyopt.distributions import Distribution
from policyopt.policies.bodies import MLP
from policyopt.policies.spaces import Actions


class Head(ABC):
    """outputs -> distribution -> action. Frozen dataclasses of options."""

    name: ClassVar[str]
    actions: ClassVar[type]  # the kind of action space it serves
    body: ClassVar[MLP] = MLP((64, 64), "tanh")  # what published work uses with it
    gain: ClassVar[float] = 0.01  # of the orthogonal output layer
    differentiable: ClassVar[bool] = True  # whether log-probabilities carry a gradient

    def check(self, actions: Actions) -> None:
        """CompositionError if the head can not act in this space."""
        if not isinstance(actions, self.actions):
            raise CompositionError(f"head {self.name!r} is for {self.actions.__name__} actions, not {actions}")

    @abstractmethod
    def outputs(self, actions: Any) -> int:
        """How many numbers the network gives."""

    def free(self, actions: Any) -> int:
        """How many log standard deviations are parameters of their own."""
        return 0

    @abstractmethod
    def distribution(self, out: Tensor, log_std: Tensor | None, level: Tensor, actions: Any) -> Distribution:
        """From outputs (..., outputs), the free log_std (D,) and the level of exploration (...)."""

    def noise(self, uniform: Tensor) -> Tensor:
        """What `pick` reads, from uniform numbers; for whole rollouts at once."""
        return uniform

    @abstractmethod
    def pick(self, out: Any, log_std: Any, level: Any, noise: Any, actions: Any) -> Any:
        """numpy: the sample that `distribution(...).sample(uniform)` is, or its mode if noise is None."""

    def emit(self, xp: Any, step: Any, low: Any, high: Any) -> Any:
        return step

    def receive(self, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The raw step of a recorded action."""
        return action

    def bounded(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Raw continuous steps as numbers in [-1, 1], with gradient."""
        raise CompositionError(f"head {self.name!r} has no continuous steps")
