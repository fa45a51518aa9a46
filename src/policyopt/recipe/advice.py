"""Options that a stage may have and that hardly anybody means: each is told, and the stage runs."""

from __future__ import annotations

from collections.abc import Iterator

from policyopt.compose import Method
from policyopt.compose.walk import parts_of
from policyopt.credit.groups import GroupCentred, GroupStandardised, LeaveOneOut
from policyopt.recipe.base import StageSection
from policyopt.sampling.samplers import DynamicSampling, Group
from policyopt.update.optimizers import Constant, Cosine, Linear
from policyopt.worlds.once import warn_once

WITHIN_GROUPS = (GroupStandardised, GroupCentred, LeaveOneOut)


def advise(method: Method, stage: StageSection) -> None:
    """Say what is odd about a stage, each thing once."""
    for said in (*_groups_of_one(method), *_long_warmup(method, stage), *_rewarded_divergence(method)):
        warn_once(said)


def _groups_of_one(method: Method) -> Iterator[str]:
    sampling = method.sampling
    if not isinstance(sampling, Group | DynamicSampling) or sampling.size != 1:
        return
    for part in parts_of(method.credit):
        if isinstance(part, WITHIN_GROUPS) and "group" in getattr(part, "within", ("group",)):
            yield (
                f"method {method.key!r} compares the attempts at a task with each other, and sampling.size=1 leaves "
                f"nothing to compare: advantages of {type(part).__name__} are all 0, and the gradient of "
                f"{[term.name for term in method.objective]} vanishes; use sampling.size=2 or more (8 is usual), or a "
                "method with another baseline (reinforce, ppo)"
            )
            return


def _long_warmup(method: Method, stage: StageSection) -> Iterator[str]:
    schedules = (part for part in parts_of(method.update) if isinstance(part, Constant | Linear | Cosine))
    longest = max((schedule.warmup for schedule in schedules), default=0)
    if stage.steps and longest > stage.steps:
        yield (
            f"update.schedule.warmup={longest} rounds is longer than the stage of method {method.key!r}, steps="
            f"{stage.steps}: the learning rate ends at {stage.steps / longest:.3g} of what it says; lower the warm-up "
            "or raise the steps"
        )


def _rewarded_divergence(method: Method) -> Iterator[str]:
    for term in method.terms:
        if term.loss.penalises and isinstance(term.weight, int | float) and term.weight < 0:
            yield (
                f"constraint.{term.name}.weight={term.weight:g} of method {method.key!r} is negative: it rewards "
                f"divergence from the model {term.loss.penalises!r} without bound; use a weight of 0 or more"
            )
    for part in parts_of(method.reward):
        beta = getattr(part, "beta", 0)
        if part.penalises and isinstance(beta, int | float) and beta < 0:
            yield (
                f"reward beta={beta:g} of method {method.key!r} is negative: it rewards divergence from the model "
                f"{part.penalises!r}; use 0 or more"
            )
