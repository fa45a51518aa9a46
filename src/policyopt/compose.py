"""How a method is written down: parts, roles, terms, the method record and programs of several methods.

A method is a value. The loop in `train.py` runs it; nothing here runs anything.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from policyopt.ops.pairs import pair_rows
from policyopt.types import ROW_COLUMNS, STEP_COLUMNS, Batch, Round, Scores, Tasks


class CompositionError(ValueError):
    """Parts that do not fit together. Says the rule, what was seen and the remedy."""


class MissingModelError(CompositionError):
    """A method needs a model that the run was not given."""


# -- what a part is given --------------------------------------------------------------------------------------
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

    def rng(self, purpose: str) -> torch.Generator: ...
    def extend(self, batch: Batch, model: str = "policy", temperature: float = 1.0) -> Batch: ...
    def total(self, x: Tensor) -> Tensor: ...
    def __getitem__(self, cell: Cell) -> Any: ...
    def __setitem__(self, cell: Cell, value: Any) -> None: ...


class Seen(Protocol):
    """Everything the run's models say of a batch, by role; lazy, cached, shared by all terms."""

    def __getitem__(self, role: str) -> Scores: ...
    def value(self, critic: str) -> Tensor: ...


@dataclass(frozen=True)
class Cell:
    """A named piece of state. Its value lives in the run and is checkpointed; parts hold none. Only update,
    before and after write cells."""

    name: str
    initial: Callable[[], Any]


# -- parts -----------------------------------------------------------------------------------------------------
class Part:
    """Base of all parts: frozen dataclasses of options that declare what they read and write.

    reads, writes: row or step columns beyond the universal ones. roles: named log-probabilities it reads.
    formula: the equation, for the printed objective.
    """

    formula: ClassVar[str] = ""
    penalises: ClassVar[str] = ""  # the model whose distance it charges for; charged once in a method

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        return ()

    @property
    def roles(self) -> tuple[str, ...]:
        return ()

    @property
    def critics(self) -> tuple[str, ...]:
        """Models whose value head it reads."""
        return ()


@dataclass(frozen=True)
class Chain(Part):
    """Parts of one axis one after another."""

    parts: tuple[Any, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        written: set[str] = set()
        needed = []
        for part in self.parts:
            needed += [column for column in part.reads if column not in written]
            written |= set(part.writes)
        return tuple(needed)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(column for part in self.parts for column in part.writes)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for part in self.parts for role in part.roles)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        for part in self.parts:
            batch = part(ctx, batch)
        return batch


@dataclass(frozen=True)
class Nothing(Part):
    """The axis is not used: the batch passes unchanged."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch


class Loss(Part, ABC):
    """One summand of the loss, unreduced: (B, T) for steps, (B,) for rows (pairs sit on their chosen row)."""

    @abstractmethod
    def __call__(self, seen: Seen, batch: Batch) -> Tensor: ...

    def plan(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        """Columns computed without gradient over the whole optimiser step: batch statistics belong here."""
        return {}

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        """Diagnostics in the loss's shape; they are averaged over the units the term counts."""
        return {}


class Averaging(Part, ABC):
    """Owns the scale: weights over the *whole* optimiser step, so that micro-batches and ranks only sum."""

    @abstractmethod
    def __call__(self, mask: Tensor, batch: Batch, total: Callable[[Tensor], Tensor]) -> Tensor: ...


Coefficient = float | Callable[[Seen, Batch], Tensor]


PerStep = float | Callable[[Batch], Tensor]
"""A coefficient of a part: one number, or a function of the batch that broadcasts against its steps (or rows)."""


def coefficient(value: PerStep, batch: Batch) -> float | Tensor:
    """Clip ranges and the like may differ by step, task or training time: schedules are data."""
    return value(batch) if callable(value) else value


def trained_steps(seen: Seen, batch: Batch) -> Tensor:
    return batch.trained


def trained_rows(seen: Seen, batch: Batch) -> Tensor:
    """Rows with at least one trained step."""
    return batch.trained.any(1)


def chosen_rows(seen: Seen, batch: Batch) -> Tensor:
    """A pair's value lives on its chosen row; the pair counts if both sides are trained."""
    chosen, rejected = pair_rows(batch).T
    trained = batch.trained.any(1)
    counted = torch.zeros_like(trained)
    counted[chosen] = trained[chosen] & trained[rejected]
    return counted


@dataclass(frozen=True)
class Term:
    """loss: unreduced. mask: which units count. average: owns the scale. weight: scalar or function, whole step.

    trains: the model whose parameters this term moves; couples: row columns that a minibatch must not split.
    limit: a hard bound; only an update that can honour it accepts the term.
    """

    name: str
    loss: Loss
    average: Averaging
    mask: Callable[[Seen, Batch], Tensor] = trained_steps
    weight: Coefficient = 1.0
    trains: str = "policy"
    couples: tuple[str, ...] = ()
    limit: float | None = None


@dataclass(frozen=True)
class Role:
    """A named log-probability: which model says it, under which context, when, and with or without gradient.

    when: "recorded" (as the sampler reported it), "collected" (scored once, before the update) or "step" (on
    every minibatch). full: also its whole distribution. context: a named context of the rows, None for the one
    they were sampled under.
    """

    model: str = "policy"
    context: str | None = None
    when: str = "step"
    grad: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        if self.when not in ("recorded", "collected", "step"):
            raise CompositionError(f"Role.when must be 'recorded', 'collected' or 'step', not {self.when!r}")
        if self.grad and self.when != "step":
            raise CompositionError(f"a {self.when} role has no gradient; use when='step' or grad=False")
        if self.full and self.when == "recorded":
            raise CompositionError("samplers record log-probabilities, not distributions; use when='collected'")


RECORDED = Role(when="recorded")


# -- models a method needs -------------------------------------------------------------------------------------
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


# -- the method ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class About:
    """What a reader must know of a published method.

    seed: number of its specification, if it has one. nearest: key of the method it differs least from.
    departures: where this composition leaves the paper, and why.
    """

    key: str
    title: str
    paper: str
    equation: str
    mechanism: str
    departures: str
    when_to_use: str
    seed: int | None = None
    nearest: str = ""
    policies: tuple[str, ...] = ("language", "control", "denoising", "tabular")


AXES = ("selection", "sampling", "reward", "feedback", "credit", "objective", "constraint", "update")


@dataclass(frozen=True)
class Method:
    """A composition of parts, one per question. Checked when made: see `check`."""

    about: About
    selection: Any
    sampling: Any
    update: Any
    objective: tuple[Term, ...]
    constraint: tuple[Term, ...] = ()
    reward: Any = Nothing()
    feedback: Any = Nothing()
    credit: Any = Nothing()
    roles: Mapping[str, Role] = field(default_factory=dict)
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    before: tuple[Callable[[Context], None], ...] = ()
    after: tuple[Callable[[Context, Round], None], ...] = ()
    policy: str = "policy"
    world: str = "world"

    def __post_init__(self) -> None:
        check(self)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (*self.objective, *self.constraint)

    @property
    def key(self) -> str:
        return self.about.key

    def at(self, step: int) -> Stage:
        """A method alone is a program of one stage without end."""
        return Stage(self, 10**12)


def check(method: Method) -> None:
    """Refuse a composition in which a part reads what no earlier part writes, or that nothing would train."""
    known = {*ROW_COLUMNS, *STEP_COLUMNS}
    for axis in ("sampling", "reward", "feedback", "credit"):
        part = getattr(method, axis)
        _require(method, axis, part, known)
        known |= set(getattr(part, "writes", ()))
    names = [term.name for term in method.terms]
    if len(set(names)) != len(names):
        raise CompositionError(f"{method.key}: terms need different names, got {names}")
    charges = [p for p in (*_parts(method.reward), *(t.loss for t in method.terms)) if p.penalises]
    if len({p.penalises for p in charges}) < len(charges):
        raise CompositionError(
            f"{method.key}: the distance to one model is charged twice, by "
            f"{[type(p).__name__ for p in charges]}; keep it either in the reward or in one term of the loss"
        )
    optimizers = getattr(method.update, "optimizers", {})
    for term in method.terms:
        _require(method, term.name, term.loss, known)
        for column in term.couples:
            if column not in known:
                raise CompositionError(f"{method.key}: term {term.name!r} couples unknown column {column!r}")
        if term.trains not in optimizers:
            raise CompositionError(
                f"{method.key}: term {term.name!r} trains {term.trains!r}, but update has optimisers for "
                f"{sorted(optimizers)}; add one or change Term.trains"
            )
        if term.limit is not None and not getattr(method.update, "honours_limits", False):
            raise CompositionError(
                f"{method.key}: term {term.name!r} is a hard limit, which {type(method.update).__name__} can not "
                "honour; give it a weight instead or use an update with a line search"
            )


def _parts(part: Any) -> tuple[Any, ...]:
    return part.parts if isinstance(part, Chain) else (part,)


def _require(method: Method, where: str, part: Any, known: set[str]) -> None:
    missing = [column for column in getattr(part, "reads", ()) if column not in known]
    if missing:
        raise CompositionError(
            f"{method.key}: {where} ({type(part).__name__}) reads {missing}, which no earlier part writes; "
            f"known columns are {sorted(known)}"
        )
    models = {method.policy, "policy", *method.models}
    for role in getattr(part, "roles", ()):
        if role not in method.roles and role not in ("policy", "behaviour"):
            raise CompositionError(
                f"{method.key}: {where} ({type(part).__name__}) reads the log-probabilities {role!r}; declare "
                f"roles={{{role!r}: Role(...)}}. Declared: {sorted(method.roles)}"
            )
    for role in method.roles.values():
        if role.model not in models:
            raise CompositionError(
                f"{method.key}: a role asks model {role.model!r}, which is not among {sorted(models)}; add it to "
                "Method.models"
            )
    for critic in getattr(part, "critics", ()):
        if critic not in models:
            raise CompositionError(f"{method.key}: {where} needs the value model {critic!r}; add it to models")


# -- several methods in one run ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stage:
    """A method and how many rounds it runs; `start` is the round of the run at which it begins."""

    method: Method
    steps: int
    start: int = 0


@dataclass(frozen=True)
class Program:
    """Stages one after another; a pure schedule, so that a restart finds its place."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise CompositionError("a Program needs at least one stage")
        start, placed = 0, []
        for stage in self.stages:
            if stage.steps < 0:
                raise CompositionError(f"a stage runs 0 or more rounds, not {stage.steps}")
            placed.append(replace(stage, start=start))
            start += stage.steps
        object.__setattr__(self, "stages", tuple(placed))

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.start + stage.steps:
                return stage
        raise CompositionError(f"the program has {self.steps} rounds; there is no round {step}")


# -- what a policy is ------------------------------------------------------------------------------------------
class Policy(Protocol):
    """Anything that takes steps and can score them. An `nn.Module`."""

    kind: str  # "language" | "control" | "denoising" | "tabular"

    def next(self, batch: Batch) -> Any:
        """The distribution of the next step of every row (untempered)."""
        ...

    def score(self, batch: Batch, context: str | None, *, full: bool) -> Scores:
        """Log-probabilities (B, T) of the steps taken, under the rows' temperature; dist only if `full`."""
        ...


class ValueModel(Protocol):
    """A critic."""

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1): the value before each step, and after the last one (padding holds arbitrary values)."""
        ...


class World(Protocol):
    """Where steps happen. What a part needs beyond this (recorded, rewind, prefer ...) it names in its errors."""

    @property
    def size(self) -> int: ...
    def tasks(self, ids: Tensor) -> Tasks: ...
    def start(self, tasks: Tasks) -> Batch: ...
    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch: ...
    def grade(self, batch: Batch) -> Tensor: ...
