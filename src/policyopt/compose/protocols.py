"""What parts are given and what they may ask of policies, critics and worlds. Protocols, no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from policyopt.ops.matching import Matching, Renoised
from policyopt.types import Batch, Scores, Tasks

if TYPE_CHECKING:
    from policyopt.compose.method import Method


class CompositionError(ValueError):
    """Parts that do not fit together. Says the rule, what was seen and the remedy."""


class MissingModelError(CompositionError):
    """A method needs a model that the run was not given."""


class Context(Protocol):
    """The run as the current stage sees it; the only way from a part to models, worlds and state."""

    @property
    def world(self) -> Any: ...
    @property
    def models(self) -> Mapping[str, nn.Module]: ...  # "policy" is the stage's policy
    @property
    def step(self) -> int: ...  # rounds since the run began
    @property
    def stage_step(self) -> int: ...  # rounds since the stage began
    @property
    def stage_total(self) -> int: ...
    @property
    def drawn(self) -> int: ...  # tasks drawn since the stage began: the data position
    @property
    def updates(self) -> int: ...  # optimiser steps since the run began
    @property
    def seed(self) -> int: ...
    @property
    def stage(self) -> Method: ...
    @property
    def meter(self) -> Any: ...
    @property
    def trainers(self) -> Any: ...  # processes that share the work of a round (`run.Trainers`); None: this one alone

    def rng(self, purpose: str) -> torch.Generator: ...
    def extend(
        self, batch: Batch, model: str = "policy", temperature: float = 1.0, steps: int | None = None
    ) -> Batch: ...
    def stream(self, state: Any, horizon: int, count: int, exploration: float = 0.0) -> Batch: ...
    def total(self, x: Tensor) -> Tensor: ...
    def __getitem__(self, cell: Cell) -> Any: ...
    def __setitem__(self, cell: Cell, value: Any) -> None: ...


class Seen(Protocol):
    """Everything the run's models say of a batch, by role; lazy, cached, shared by all terms."""

    def __getitem__(self, role: str) -> Scores: ...
    def at(self, role: str, *, following: bool = False) -> Any: ...
    def value(self, critic: str, *, following: bool = False) -> Tensor: ...
    def q(self, critic: str, steps: Tensor | None = None, *, following: bool = False) -> Tensor: ...
    def q_all(self, critic: str, *, following: bool = False) -> Tensor: ...
    def scalar(self, model: str) -> Tensor: ...
    def worth(self, model: str) -> Tensor: ...
    def compare(self, model: str, first: Tensor, second: Tensor) -> Tensor: ...
    def taken(self, model: str = "policy") -> Tensor: ...
    def noise(self, purpose: str, points: int = 1) -> dict[str, Tensor]: ...
    def match(self, role: str) -> Matching: ...
    def renoised(self, model: str, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised: ...
    def rng(self, purpose: str) -> torch.Generator: ...


@dataclass(frozen=True)
class Cell:
    """A named piece of state. Its value lives in the run and is checkpointed; parts hold none. Only update,
    before and after write cells."""

    name: str
    initial: Callable[[], Any]


class Policy(Protocol):
    """Anything that takes steps and can score them. An `nn.Module`."""

    kind: str  # "language" | "control" | "denoising" | "tabular"

    def next(self, batch: Batch) -> Any:
        """The distribution of the next step of every row (untempered)."""
        ...

    def score(self, batch: Batch, context: str | None, *, full: bool) -> Scores:
        """Log-probabilities (B, T) of the steps taken, under the rows' temperature; dist only if `full`."""
        ...


class StatefulPolicy(Policy, Protocol):
    """What value-based and pathwise parts ask of a policy beside the above: all where it can."""

    def at(self, batch: Batch, *, following: bool = False) -> Any:
        """Distributions (B, T) at the state before each step, or at the state that follows it."""
        ...

    def taken(self, batch: Batch) -> Tensor:
        """The steps that were taken, (B, T, ...)."""
        ...

    def make_q(self, rng: torch.Generator, heads: int) -> Any:
        """An `ActionValueModel` of `heads` heads."""
        ...


class ValueModel(Protocol):
    """A critic."""

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1): the value before each step, and after the last one (padding holds arbitrary values). A critic
        may also have `before(batch)`, the first T of them, if they alone cost less."""
        ...


class ActionValueModel(Protocol):
    """A critic of states and steps."""

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        """(E, B, T): values of `steps` (None: those taken) at the states before each step, or after it."""
        ...

    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        """(E, B, T, A): the values of every choice, where there are finitely many."""
        ...


class NoiseModel(Protocol):
    """A denoising model of steps, given the state before each."""

    def renoised(self, batch: Batch, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised:
        """What it says of steps (B, T, D) that are noised with `noise` at shares (B, T) in 0..1 of its process."""
        ...


class World(Protocol):
    """Where steps happen. What a part needs beyond this (recorded, prefer ...) it names in its errors.

    rewind(batch, steps (B,)) -> Batch: the first steps of every row, still running.
    instructions, instruct(tasks, name, values): what tasks can be told beside their prompt (`sampling.instructions`).
    state_keys(batch) -> (B, T) int64: equal where two steps were taken in the same state of the world.
    judge_steps(batch) -> (B, T): how right every own step is, in 0..1; nan where a step is none of those judged.
    checks(batch) -> (B, J): how far each check of the row is passed, in 0..1; nan: not a check of its task.
    prefer(first, second) -> (B,): the probability that a row of the first batch is preferred to that of the second, of
    the same task; P(a > b) + P(b > a) = 1 and nothing else, so that cycles are possible.
    verdicts(first, second, own or None) -> two batches: rows of a judge that say that the first is better, and rows
    that say that the second is, behind a prompt that shows both (and the judge's own answer).
    conclude(batch) -> Batch: rows that answer at once, wherever they are.
    diversity(batch, ids (B,)) -> (B,): how diverse the set of rows is that shares a row's id.
    task_pairs() -> (M, 2) task ids, (M,) similarity; kinds() -> a name per task.
    answer_keys(batch) -> (B,) int64: equal for answers that mean the same, negative where there is none.
    """

    @property
    def size(self) -> int: ...
    def tasks(self, ids: Tensor) -> Tasks: ...
    def start(self, tasks: Tasks) -> Batch: ...
    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch: ...
    def grade(self, batch: Batch) -> Tensor:
        """(B,): the worth of every row, or (B, T): the reward of every step."""
        ...
