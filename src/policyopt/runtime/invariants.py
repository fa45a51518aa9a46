"""What must hold in every round before its update, whatever the method: cheap looks at what the round has anyway.

Nothing here draws a random number, counts a metric or moves a weight: a run with them is equal to one without, to the
last bit. (That gradients are finite is kept by the update itself: `NonFiniteGradientError` leaves the model as it was.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import AXES, Copy, Given, Method, Part, names_of, trained_rows, trained_steps
from policyopt.ops.fingerprint import fingerprint
from policyopt.run import StageContext
from policyopt.types import Batch, Source

ROWS = 4  # that are scored once more
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}  # of a log-probability, relative to 1 + its size
HALF = 0.5  # for models in 16 bits: other company in a batch, other rounding
NEGATIVE = -1e-4
SUM = 1e-6


@dataclass(frozen=True)
class Rules:
    """policy: what happens when an invariant does not hold. every: rounds between looks that cost a pass over some rows
    or weights; the others are taken in every round. staleness: optimiser steps that a sampled step may be older than
    the policy that is trained on it (None: any). alarms: watch entropy, length and reward as well; they never stop a
    run."""

    policy: Literal["stop", "warn"] = "stop"
    every: int = 10
    staleness: int | None = None
    alarms: bool = True


@dataclass(frozen=True)
class Alarm:
    """Something that does not hold, or does not look right."""

    name: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value}; {self.remedy}"


class InvariantError(ArithmeticError):
    """An invariant does not hold: the round was refused before its update."""


@dataclass(frozen=True)
class Before:
    """A round before its update. prints: fingerprints of frozen models, by stage and name; the only state."""

    ctx: StageContext
    kept: Batch
    rules: Rules
    prints: MutableMapping[str, int]

    @property
    def due(self) -> bool:
        """Whether the dearer looks are taken."""
        return self.ctx.stage_step % self.rules.every == 0

    @property
    def policy(self) -> Any:
        return self.ctx.models["policy"]


Invariant = Callable[[Before], Alarm | None]


def breaches(before: Before) -> Iterator[Alarm]:
    """Everything that does not hold."""
    for invariant in INVARIANTS:
        found = invariant(before)
        if found is not None:
            yield found


# -- log-probabilities -------------------------------------------------------------------------------------------------
def first_ratio(before: Before) -> Alarm | None:
    """The policy is still its old self: scored again, a few rows give the log-probabilities that were collected."""
    kept, method = before.kept, before.ctx.stage
    role = method.roles.get("old")
    if not before.due or role is None or "old" not in kept.scores or not kept.scores["old"].exact:
        return None
    if role.model not in ("policy", method.policy) or role.context is not None:
        return None
    rows = torch.linspace(0, len(kept) - 1, min(ROWS, len(kept)), device=kept.device).long().unique()
    some = kept[rows]
    with torch.no_grad():
        again = before.policy.score(some, None, full=False).logp
    old = some.scores["old"].logp
    counted = some.trained & old.isfinite()
    if not bool(counted.any()):
        return None
    gap = ((again - old).abs() / (1 + old.abs()))[counted]
    most = float(gap.max())
    if most <= TOLERANCE.get(next(before.policy.parameters()).dtype, HALF):
        return None
    return Alarm(
        "first ratio is 1",
        f"before the update, old and new log-probabilities differ by {most:.2g} (relative to 1 + their size)",
        "score both alike: no dropout, same temperature, same weights; `policyopt check` finds which",
    )


def entropies(before: Before) -> Alarm | None:
    """Of choices among finitely many, entropies are not negative and probabilities not above 1."""
    old = before.kept.scores.get("old")
    if old is None or not old.exact or not hasattr(before.policy, "taken"):
        return None
    counted = before.kept.trained
    if before.policy.taken(before.kept[:1]).is_floating_point() or not bool(counted.any()):
        return None
    least = torch.zeros(()) if old.entropy is None else old.entropy[counted].min()
    most = old.logp[counted].max()
    if float(least) >= NEGATIVE and float(most) <= -NEGATIVE:
        return None
    seen = before.kept.step.get("_obs")
    blind = 0 if seen is None else int((~seen.isfinite()).flatten(2).any(2)[counted].sum())
    return Alarm(
        "entropy is not negative",
        f"the least entropy is {float(least):.3g}, the largest log-probability {float(most):.3g}"
        + (f", and {blind} observations are not finite" if blind else ""),
        "mend the environment, or the actions that bring it there"
        if blind
        else "the policy's distributions do not sum to 1: look at its head and its precision",
    )


def staleness(before: Before) -> Alarm | None:
    """Steps that the policy sampled are not from the future, and not older than the bound."""
    kept = before.kept
    sampled = kept.trained & (kept.row["source"] == Source.POLICY)[:, None]
    if not bool(sampled.any()):
        return None
    age = before.ctx.updates - kept.step["version"][sampled]
    least, most = int(age.min()), int(age.max())
    bound = before.rules.staleness
    past = before.ctx.run.past
    if past:  # sampling runs ahead by a number of rounds: their updates are counted
        ahead = before.ctx.updates - min(held.updates for held in past.values())
        bound = ahead if bound is None else min(bound, ahead)
    if least >= 0 and (bound is None or most <= bound):
        return None
    return Alarm(
        "staleness is bounded",
        f"steps are {least} to {most} optimiser steps old, the bound is {'none' if bound is None else bound}",
        "sample with newer weights, or allow for it: invariants.staleness, and a method that corrects for it",
    )


# -- weights -----------------------------------------------------------------------------------------------------------
def reference(before: Before) -> Alarm | None:
    """Frozen models are what they were when the stage began."""
    if not before.due:
        return None
    ctx = before.ctx
    changed = []
    for name in frozen_models(ctx.stage):
        key = f"{ctx.step - ctx.stage_step}/{name}"
        now = fingerprint(ctx.models[name])
        if before.prints.setdefault(key, now) != now:
            changed.append(name)
            before.prints[key] = now
    if not changed:
        return None
    return Alarm(
        "reference is unchanged",
        f"the weights of {changed} have changed, which nothing in this method is to change",
        "something outside the method writes them: look for shared parameters or a second optimiser",
    )


def written_models(method: Method) -> set[str]:
    """What the method trains, and every name that something which may write weights has among its options."""
    return {*method.trained, method.policy, "policy"}.union(*map(names_of, _hooks(method)))


def frozen_models(method: Method) -> list[str]:
    """Copies and given models whose log-probabilities are read, and that nothing of the method names as its to
    write."""
    asked = {role.model for role in method.roles.values()} - written_models(method)
    return [name for name, spec in method.models.items() if isinstance(spec, Copy | Given) and name in asked]


def _hooks(method: Method) -> Iterator[Any]:
    """What may write weights: hooks, and parts that do something after a round."""
    update = method.update
    yield from (*method.before, *method.after)
    if "after_step" in getattr(update, "__dataclass_fields__", ()):
        yield from update.after_step
    for axis in AXES:
        part = getattr(method, axis)
        if isinstance(part, Part) and type(part).after is not Part.after:
            yield part


def synchronised(before: Before) -> Alarm | None:
    """An engine that holds a copy of the weights (it then says their `fingerprint()`) sampled with these weights."""
    engine: Any = before.ctx.run.engine
    if not hasattr(engine, "fingerprint") or before.ctx.run.past:  # sampled ahead: with older weights, on purpose
        return None
    kept = before.kept
    sampled = kept.trained & ~kept.step["behaviour"].isnan() & (kept.step["version"] == before.ctx.updates)
    if not bool(sampled.any()):  # recorded or replayed: the engine had nothing to do since the last update
        return None
    held, own = engine.fingerprint(), fingerprint(before.policy)
    if held == own:
        return None
    return Alarm(
        "engine has the policy's weights",
        f"the engine's weights have the checksum {held:x}, the policy's {own:x}",
        "send the weights to the engine after every update, all of them, in the same precision",
    )


# -- the scale ---------------------------------------------------------------------------------------------------------
def denominators(before: Before) -> Alarm | None:
    """Averages that are means divide by what is counted: their weights are 0 elsewhere and add up to 1."""
    if not before.due:
        return None
    for term in before.ctx.stage.terms:
        if not term.average.mean or term.mask not in (trained_steps, trained_rows):
            continue
        mask: Tensor = before.kept.trained if term.mask is trained_steps else before.kept.trained.any(1)
        weights = term.average(mask, before.kept, before.ctx.total)
        inside, outside = float(weights[mask].sum()), float(weights[~mask].abs().sum())
        if abs(inside - 1) > SUM or outside > 0:
            return Alarm(
                "denominators equal counted steps",
                f"term {term.name!r} counts {int(mask.sum())} units with weights that add up to {inside:.6g}, and "
                f"{outside:.3g} outside of the mask",
                f"{type(term.average).__name__} must divide by the units in its mask, over the whole step",
            )
    return None


INVARIANTS: tuple[Invariant, ...] = (first_ratio, entropies, staleness, reference, synchronised, denominators)
