"""Updates on rows of their own, with terms of their own, beside those of a round."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyopt.compose import Cell, CompositionError, Part, Role, Term
from policyopt.seen import collect_roles
from policyopt.types import Batch
from policyopt.update.gradient import Gradients, GradientSteps


@dataclass(frozen=True)
class _View:
    """What an update reads of a stage."""

    key: str
    terms: tuple[Term, ...]
    roles: Any
    models: Any
    policy: str
    update: Gradients
    trained: frozenset[str]


def apart(ctx: Any, terms: Sequence[Term], update: Gradients, roles: Mapping[str, Role] | None = None) -> Any:
    """A context whose stage trains by `terms` instead of the method's own. Optimisers are those of the stage, and roles
    unless others are given."""
    missing = sorted({term.trains for term in terms} - set(update.optimizers))
    if missing:
        raise CompositionError(f"terms of an update apart train {missing}; give it optimisers for them")
    view, stage = copy.copy(ctx), ctx.stage
    named = stage.roles if roles is None else roles
    view.stage = _View(stage.key, tuple(terms), named, stage.models, stage.policy, update, stage.trained)
    return view


def update_apart(
    ctx: Any, batch: Batch, terms: Sequence[Term], update: Gradients, roles: Mapping[str, Role] | None = None
) -> None:
    """An update of models by terms of its own; see `apart`."""
    view = apart(ctx, terms, update, roles)
    update(view, collect_roles(view, batch))


@dataclass(frozen=True)
class Apart(Part):
    """An update of models other than the policy on given rows; see `update_apart`. roles: None are the method's."""

    terms: tuple[Term, ...] = ()
    update: Gradients = field(default_factory=GradientSteps)
    roles: Mapping[str, Role] | None = None

    def __call__(self, ctx: Any, batch: Batch) -> None:
        update_apart(ctx, batch, self.terms, self.update, self.roles)


class _Elsewhere:
    """A context at another data position."""

    def __init__(self, ctx: Any, drawn: int):
        self.ctx, self.drawn = ctx, drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)

    def __getitem__(self, cell: Cell) -> Any:
        return self.ctx[cell]


@dataclass(frozen=True)
class Rehearsal(Part):
    """A `before` hook: `count` recorded rows, and on them an update by terms of its own (the pretraining loss of RLHF:
    likelihood of other data, so that it is not unlearned). Rows come in the order that tasks are drawn in, but go on
    where the stage's last round of rehearsal ended: each once per epoch of its own."""

    terms: tuple[Term, ...] = ()
    update: Gradients = field(default_factory=GradientSteps)
    count: int = 32

    data = "rows"

    def __call__(self, ctx: Any) -> None:
        there = _Elsewhere(ctx, ctx.stage_step * self.count)
        tasks = ctx.stage.selection.draw(there, self.count).to(next(ctx.models["policy"].parameters()).device)
        update_apart(ctx, ctx.world.recorded(tasks), self.terms, self.update)
