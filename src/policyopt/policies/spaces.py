"""What a control policy sees and does, as data: observation and action spaces without their library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from policyopt.compose import CompositionError


@dataclass(frozen=True)
class Observations:
    """Arrays of one shape. `choices`: above 0, observations are integers below it and are read one-hot. `image`: they
    are bytes and are divided by 255."""

    shape: tuple[int, ...]
    choices: int = 0
    image: bool = False

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape that a body reads."""
        return (self.choices,) if self.choices else self.shape


@dataclass(frozen=True)
class Discrete:
    """One of `choices` actions, numbered from `start`."""

    choices: int
    start: int = 0


@dataclass(frozen=True)
class Multi:
    """Independent choices, of `sizes` alternatives each, numbered from `starts`."""

    sizes: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Numbers of one shape between bounds (flat, may be infinite)."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if len(self.low) != size or len(self.high) != size:
            raise CompositionError(
                f"a box of shape {self.shape} has {size} lower and {size} upper bounds, not {len(self.low)} and "
                f"{len(self.high)}"
            )
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise CompositionError(f"every lower bound must be below its upper one: {self.low}, {self.high}")

    @property
    def size(self) -> int:
        return len(self.low)

    @property
    def bounded(self) -> bool:
        return all(math.isfinite(bound) for bound in (*self.low, *self.high))


Actions = Discrete | Multi | Box


def observations_of(space: Any) -> Observations:
    """From a Gymnasium space. CompositionError: composite spaces (flatten them in the environment)."""
    if isinstance(space, spaces.Discrete):
        if int(space.start) != 0:
            raise CompositionError(f"discrete observations start at 0, not at {space.start}; shift them by a wrapper")
        return Observations((), choices=int(space.n))
    if isinstance(space, spaces.Box):
        return Observations(tuple(space.shape), image=space.dtype == np.uint8 and len(space.shape) > 1)
    if isinstance(space, spaces.MultiBinary):
        return Observations(tuple(space.shape))
    raise CompositionError(
        f"observations must be Box, Discrete or MultiBinary, not {type(space).__name__}; flatten them with "
        "gymnasium.wrappers.FlattenObservation"
    )


def actions_of(space: Any) -> Actions:
    """From a Gymnasium space. CompositionError: other than Discrete, MultiDiscrete, MultiBinary or a Box of floats."""
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Multi(tuple(map(int, space.nvec)), tuple(map(int, space.start)))
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Multi((2,) * space.shape[0], (0,) * space.shape[0])
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Box(tuple(space.shape), tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel())))
    raise CompositionError(
        f"actions must be Discrete, MultiDiscrete, MultiBinary (of one dimension) or a Box of floats, not {space}; "
        "change them by a wrapper"
    )
