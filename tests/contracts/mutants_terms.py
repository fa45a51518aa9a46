"""Planted bugs of coefficients, options and masks (traps 25 and 26)."""

import dataclasses

import torch
from mutants import (
    DIVERGENCE,
    KNOBS,
    LOOPS,
    Patch,
    mutant,
)

from policyopt.compose import Term
from policyopt.constraint.divergence import KLToReference
from policyopt.credit.groups import GroupStandardised
from policyopt.objective.preference import PairLogistic
from policyopt.ops import divergence, masked
from policyopt.types import Categorical
from policyopt.update import averaging, gradient


@mutant(f"{DIVERGENCE}::test_trap_25_a_coefficient_scales_exactly_one_term", traps=(25,))
def coefficient_never_applied(patch: Patch) -> None:
    original = gradient.plan
    patch.function(
        original,
        lambda ctx, batch, terms: original(ctx, batch, [dataclasses.replace(t, weight=1.0) for t in terms]),
    )


@mutant(f"{DIVERGENCE}::test_trap_25_a_coefficient_scales_exactly_one_term", traps=(25,))
def coefficient_applied_twice(patch: Patch) -> None:
    original = gradient.plan

    def wrong(ctx, batch, terms: list[Term]):
        return [dataclasses.replace(p, weights=p.weights * p.term.weight) for p in original(ctx, batch, terms)]

    patch.function(original, wrong)


@mutant(f"{DIVERGENCE}::test_trap_25_the_same_distance_is_not_charged_twice", traps=(25,))
def double_charge_is_not_refused(patch: Patch) -> None:
    patch.method(KLToReference, "penalises", "")


@mutant(f"{KNOBS}::test_trap_25_no_knob_is_dead", traps=(25,))
def a_dead_knob(patch: Patch) -> None:
    call = GroupStandardised.__call__
    patch.method(
        GroupStandardised, "__call__", lambda self, ctx, batch: call(GroupStandardised(ddof=self.ddof), ctx, batch)
    )


@mutant(f"{KNOBS}::test_trap_25_no_knob_is_dead", traps=(25,))
def smoothing_is_ignored(patch: Patch) -> None:
    call = PairLogistic.__call__
    patch.method(PairLogistic, "__call__", lambda self, s, b: call(PairLogistic(self.beta), s, b))


@mutant(
    f"{DIVERGENCE}::test_trap_26_masked_nan_and_inf_leave_no_trace",
    f"{DIVERGENCE}::test_trap_26_credit_ignores_padding",
    traps=(26,),
)
def mask_multiplied_instead_of_selected(patch: Patch) -> None:
    patch.function(masked.select, lambda mask, x: mask * x)


@mutant(f"{DIVERGENCE}::test_trap_26_masked_nan_and_inf_leave_no_trace", traps=(26,))
def selected_after_the_product(patch: Patch) -> None:
    """Finite in value, nan in gradient."""

    def wrong(self, seen_, batch):
        value = divergence.kl_gradient(seen_["policy"].logp, seen_["reference"].logp, seen_["old"].logp)
        return masked.select(batch.trained, value)

    patch.method(KLToReference, "__call__", wrong)


@mutant("test_losses::test_impossible_choices_have_finite_gradients", traps=(26,))
def impossible_choices_selected_late(patch: Patch) -> None:
    def wrong(self, other):
        p = self.logp.exp()
        return torch.where(p > 0, p * (self.logp - other.logp), 0.0).sum(-1)

    patch.method(Categorical, "kl", wrong)


@mutant(LOOPS, traps=())
def weights_rounded_to_float32(patch: Patch) -> None:
    patch.function(averaging._float, lambda mask: (mask.double() / 3).float().double() * 3)
