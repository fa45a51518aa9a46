"""The method record, its check, and programs of several methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policyopt.compose.models import ModelSpec
from policyopt.compose.parts import NOTHING, Chain
from policyopt.compose.protocols import CompositionError, Context
from policyopt.compose.terms import Role, Term
from policyopt.compose.walk import walk
from policyopt.types import ROW_COLUMNS, STEP_COLUMNS, Round


@dataclass(frozen=True)
class About:
    """What a reader must know of a published method.

    seed, family: number and family of its specification, if it has one ("A1", "A2": on-policy; "B1", "B2": preferences
    and distillation; "C": control, offline and safe; "D": denoising and systems). nearest: key of the method it differs
    least from.
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
    family: str = ""
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
    reward: Any = NOTHING
    feedback: Any = NOTHING
    credit: Any = NOTHING
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

    @functools.cached_property
    def trained(self) -> frozenset[str]:
        """Every model that has an optimiser somewhere in the method, be it in a hook with terms of its own."""
        inside = list(walk(self))
        optimizers = [one.optimizers for one in inside if "optimizers" in getattr(one, "__dataclass_fields__", ())]
        return frozenset({one.trains for one in inside if isinstance(one, Term)}.union(*optimizers))

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


@dataclass(frozen=True)
class Stage:
    """A method and how many rounds it runs; `start` is the round of the run at which it begins.

    keeps: the policy as it is at the end of the stage stays in the run, frozen, as a model of that name. begins: the
    stage starts from a policy and cells that an earlier stage kept, not from those of the stage before it: a branch.
    anew: models that a branch trains and that only stages since then have made; they are made again (`Program`).
    """

    method: Method
    steps: int
    start: int = 0
    keeps: str = ""
    begins: str = ""
    anew: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.steps


def _anew(stage: Stage, before: Sequence[Stage]) -> tuple[str, ...]:
    """Models that a stage trains and that were first made by stages which its branch has nothing to do with."""
    kept = {other.keeps: index for index, other in enumerate(before) if other.keeps and other.steps}
    if stage.keeps in kept:
        raise CompositionError(f"two stages keep their policy as {stage.keeps!r}; give them different names")
    if not stage.begins:
        return ()
    if stage.begins not in kept:
        raise CompositionError(
            f"a stage begins from {stage.begins!r}, which no earlier stage of one round or more keeps; they keep "
            f"{list(kept)}"
        )
    trained = {term.trains for term in stage.method.terms} & set(stage.method.models)
    shared = {name for other in before[: kept[stage.begins] + 1] for name in other.method.models if other.steps}
    return tuple(sorted(trained - shared))


@dataclass(frozen=True)
class Program:
    """Stages one after another; a pure schedule, so that a restart finds its place."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise CompositionError("a Program needs at least one stage")
        start: int = 0
        placed: list[Stage] = []
        for stage in self.stages:
            if stage.steps < 0:
                raise CompositionError(f"a stage runs 0 or more rounds, not {stage.steps}")
            placed.append(replace(stage, start=start, anew=_anew(stage, placed)))
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
