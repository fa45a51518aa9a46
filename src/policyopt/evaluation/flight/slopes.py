"""Gradients of the first update of a round, and of the same update with another value of an option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Stage, Term
from policyopt.evaluation.flight.record import Gradient
from policyopt.ops.random import generator
from policyopt.options import find, override
from policyopt.run import StageContext
from policyopt.seen import collect_roles
from policyopt.types import Batch
from policyopt.update.gradient import Gradients, GradientSteps, plan, planned_losses, terms_of, total_norm

PIECES = 8
HELD_NUMBERS = 100_000_000  # of gradients that are held side by side
OTHER = (1.5, 0.5, 0.9)  # factors by which an option is changed, the first that its part takes
MOVED = 0.01  # relative size of the random change of weights at which options are compared


@dataclass(frozen=True)
class Slope:
    """One model's gradient as a record, and the tensors themselves."""

    gradient: Gradient
    tensors: tuple[Tensor, ...]


def first_update(ctx: StageContext, kept: Batch) -> Batch | None:
    """The rows of the first update that the stage would make of a round; None if it would make none."""
    if not len(kept) or not bool(kept.trained.any()):
        return None
    update = ctx.stage.update
    if not isinstance(update, Gradients):
        return kept
    found = next(iter(update.batches(ctx, kept)), None)
    if found is None:
        return None
    whole, rows = found
    return whole if rows is None else whole[rows]


def slopes(ctx: StageContext, batch: Batch) -> list[Slope]:
    """The gradient of every model that the stage trains by differentiable terms."""
    models = dict.fromkeys(term.trains for term in ctx.stage.terms)
    found = (slope(ctx, batch, model, terms_of(ctx, model)) for model in models)
    return [each for each in found if each is not None]


def slope(ctx: StageContext, batch: Batch, model: str, terms: Sequence[Term], pieces: int = PIECES) -> Slope | None:
    """None: no term has a gradient."""
    parameters = [p for p in ctx.models[model].parameters() if p.requires_grad]
    planned = plan(ctx, batch, [term for term in terms if term.limit is None])
    total = [torch.zeros_like(p) for p in parameters]
    held = pieces * sum(p.numel() for p in parameters) <= HELD_NUMBERS
    norms: list[float] = []
    kept: list[Tensor] = []
    with torch.enable_grad():
        for loss in planned_losses(ctx, batch, planned, -(-len(batch) // pieces)):
            if not loss.requires_grad:
                continue
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            found = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
            norms.append(total_norm(found))
            if held:
                kept.append(torch.cat([part.flatten() for part in found]))
            for so_far, part in zip(total, found, strict=True):
                so_far += part
    if not norms:
        return None
    update = ctx.stage.update
    clip = update.clip_norm if isinstance(update, Gradients) else None
    whole = torch.cat([part.flatten() for part in total])
    gradient = Gradient(
        model,
        len(batch),
        total_norm(total),
        tuple(norm * len(norms) for norm in norms),
        tuple(float(part @ whole) * len(norms) for part in kept),
        clip,
    )
    return Slope(gradient, tuple(total))


# -- options without effect --------------------------------------------------------------------------------------------
def idle_options(ctx: StageContext, kept: Batch, given: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(options tried, those that change nothing): numbers of the objective and the constraints that the recipe sets,
    where a round has one update. Compared at weights a little away from these, where a distance to a reference is not
    zero, on rows that those weights would have sampled."""
    update = ctx.stage.update
    if not isinstance(update, GradientSteps) or update.epochs * update.minibatches > 1:
        return (), ()
    keys = [key for key in given if key.split(".")[0] in ("objective", "constraint") and _number(ctx, key)]
    if not keys:
        return (), ()
    with moved(ctx):
        rows = as_sampled_now(ctx, kept)
        before = slopes(ctx, rows)
        idle = tuple(key for key in keys if _same(before, _otherwise(ctx, rows, key)))
    return tuple(keys), idle


def _number(ctx: StageContext, key: str) -> bool:
    try:
        value = find(ctx.stage, key).value
    except CompositionError:  # a term of weight 0 is taken out of the method, with its options
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _otherwise(ctx: StageContext, rows: Batch, key: str) -> list[Slope] | None:
    """The gradients with another value of an option; None if it takes no other."""
    value = find(ctx.stage, key).value
    for factor in OTHER:
        try:
            changed = override(ctx.stage, {key: type(value)(value * factor) if value else factor})
        except CompositionError:
            continue
        other = StageContext(ctx.run, Stage(changed, ctx.stage_total, ctx.step - ctx.stage_step))
        return slopes(other, rows)
    return None


def _same(before: Sequence[Slope], after: Sequence[Slope] | None) -> bool:
    if after is None or len(before) != len(after):
        return False
    return all(
        torch.equal(a, b)
        for one, two in zip(before, after, strict=True)
        for a, b in zip(one.tensors, two.tensors, strict=True)
    )


def as_sampled_now(ctx: StageContext, kept: Batch) -> Batch:
    """The rows as if the policy as it is had sampled them, scored anew."""
    policy: Any = ctx.models["policy"]
    with torch.no_grad():
        logp = policy.score(kept, None, full=False).logp
    known = kept.step["behaviour"].isfinite()
    rows = Batch(kept.row, {**kept.step, "behaviour": torch.where(known, logp, kept.step["behaviour"])})
    return collect_roles(ctx, rows)


@contextmanager
def moved(ctx: StageContext) -> Iterator[None]:
    """The policy's trained weights, each a little away from what it is."""
    weights = [p for p in ctx.models["policy"].parameters() if p.requires_grad]
    before = [p.detach().clone() for p in weights]
    rng = generator(ctx.seed, "flight/moved")
    try:
        with torch.no_grad():
            for p in weights:
                noise = torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p)
                p.add_(MOVED * (p.detach().square().mean().sqrt() + MOVED) * noise)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(weights, before, strict=True):
                p.copy_(old)
