"""Planted bugs of log-probabilities, ratios, divergences and masks (traps 14 to 24)."""

import dataclasses

import torch
from mutants import (
    DIVERGENCE,
    KNOBS,
    LOOPS,
    RATIOS,
    Patch,
    mutant,
)

from policyopt import seen
from policyopt.constraint.divergence import K2Loss, KLToReference
from policyopt.objective import surrogates
from policyopt.objective.supervised import SampledReverseKL
from policyopt.objective.surrogates import ClippedSurrogate, GeometricSequenceSurrogate, TruncatedImportance
from policyopt.ops import divergence, masked
from policyopt.policies.tabular import Table
from policyopt.run import StageContext
from policyopt.types import Scores
from policyopt.update import gradient


def rolled(scores: Scores) -> Scores:
    return dataclasses.replace(scores, logp=scores.logp.roll(1, 1))


@mutant(f"{RATIOS}::test_trap_14_every_consumer_reads_its_own_column", LOOPS, traps=(14,))
def scores_shifted_by_one(patch: Patch) -> None:
    compute = seen.SeenBatch.compute
    patch.method(seen.SeenBatch, "compute", lambda self, role: rolled(compute(self, role)))


@mutant(f"{RATIOS}::test_trap_14_a_table_scores_what_it_sampled", traps=(14,))
def table_scores_the_next_state(patch: Patch) -> None:
    score = Table.score
    patch.method(Table, "score", lambda self, *given, **options: rolled(score(self, *given, **options)))


@mutant(f"{RATIOS}::test_trap_14_every_consumer_reads_its_own_column", traps=(14,))
def recorded_role_is_scored_again(patch: Patch) -> None:
    getitem = seen.SeenBatch.__getitem__

    def wrong(self, role):
        return self.compute(role) if role == "kept" else getitem(self, role)

    patch.method(seen.SeenBatch, "__getitem__", wrong)


@mutant(
    f"{RATIOS}::test_trap_20_behaviour_old_and_current_are_three",
    f"{DIVERGENCE}::test_trap_28_roles_collected_before_and_scored_at_the_step_agree",
    traps=(20,),
)
def old_is_scored_at_the_step(patch: Patch) -> None:
    patch.function(seen.collect_roles, lambda ctx, batch: batch)


@mutant(f"{RATIOS}::test_trap_20_behaviour_old_and_current_are_three", traps=(20,))
def behaviour_overwritten_by_old(patch: Patch) -> None:
    original = seen.collect_roles

    def wrong(ctx, batch):
        found = original(ctx, batch)
        return found.with_steps({"behaviour": found.scores["old"].logp}) if "old" in found.scores else found

    patch.function(original, wrong)


@mutant(f"{RATIOS}::test_trap_20_truncated_importance_is_unbiased_without_a_cap", traps=(20,))
def importance_ratio_inverted(patch: Patch) -> None:
    def wrong(self, seen_, batch):
        with torch.no_grad():
            return (batch.step["behaviour"] - seen_["old"].logp).exp().clamp(max=self.cap)

    patch.method(TruncatedImportance, "__call__", wrong)


@mutant(f"{RATIOS}::test_trap_20_steps_carry_the_version_that_took_them", traps=(20,))
def version_of_the_round(patch: Patch) -> None:
    patch.method(StageContext, "updates", property(lambda self: self.run.step))


@mutant(
    f"{RATIOS}::test_trap_21_exponent_of_the_sequence_ratio",
    "test_gspo::test_gradient_of_the_sequence_ratio",
    "test_gspo::test_gspo_at_the_old_policy_is_grpo_with_sequence_mean",
    traps=(21,),
)
def sequence_ratio_without_its_exponent(patch: Patch) -> None:
    def wrong(self, seen_, batch):
        return masked.masked_sum(surrogates.log_ratio(seen_, batch), batch.trained).exp()

    patch.method(GeometricSequenceSurrogate, "ratio", wrong)


@mutant(f"{RATIOS}::test_trap_21_exponent_of_the_sequence_ratio", LOOPS, traps=(21,))
def sequence_ratio_over_the_padded_width(patch: Patch) -> None:
    def wrong(self, seen_, batch):
        total = masked.masked_sum(surrogates.log_ratio(seen_, batch), batch.trained)
        return (total / batch.steps).exp()

    patch.method(GeometricSequenceSurrogate, "ratio", wrong)


@mutant(
    f"{RATIOS}::test_trap_22_clipping_is_never_better_than_none",
    f"{RATIOS}::test_trap_22_clip_table_and_dual_clip",
    "test_ppo::test_gradient_is_exactly_zero_outside_the_trust_interval",
    LOOPS,
    traps=(22,),
)
def minimum_becomes_maximum(patch: Patch) -> None:
    def wrong(ratio, advantage, clip_low, clip_high):
        clipped = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
        return -torch.maximum(ratio * advantage, clipped * advantage)

    patch.function(surrogates.clipped_surrogate, wrong)


@mutant(
    f"{RATIOS}::test_trap_22_clip_table_and_dual_clip",
    "test_ppo::test_gradient_is_exactly_zero_outside_the_trust_interval",
    traps=(22,),
)
def clipped_without_the_minimum(patch: Patch) -> None:
    def wrong(ratio, advantage, clip_low, clip_high):
        return -torch.clamp(ratio, 1 - clip_low, 1 + clip_high) * advantage

    patch.function(surrogates.clipped_surrogate, wrong)


@mutant(f"{RATIOS}::test_trap_22_clip_table_and_dual_clip", "test_losses::test_clipped_surrogate_by_hand", traps=(22,))
def low_and_high_clip_swapped(patch: Patch) -> None:
    original = surrogates.clipped_surrogate
    patch.function(original, lambda r, a, low, high: original(r, a, high, low))


@mutant(f"{RATIOS}::test_trap_22_clip_table_and_dual_clip", f"{KNOBS}::test_trap_25_no_knob_is_dead", traps=(22, 25))
def dual_clip_missing(patch: Patch) -> None:
    call = ClippedSurrogate.__call__
    patch.method(
        ClippedSurrogate,
        "__call__",
        lambda self, s, b: call(dataclasses.replace(self, dual_clip=None), s, b),
    )


@mutant(f"{RATIOS}::test_trap_22_clip_table_and_dual_clip", traps=(22,))
def dual_clip_on_both_signs(patch: Patch) -> None:
    call = ClippedSurrogate.__call__

    def wrong(self, s, b):
        loss = call(dataclasses.replace(self, dual_clip=None), s, b)
        if self.dual_clip is None:
            return loss
        advantage = b.step["advantage"].abs()
        return torch.maximum(torch.minimum(loss, self.dual_clip * advantage), -1.1 * advantage)

    patch.method(ClippedSurrogate, "__call__", wrong)


@mutant(f"{RATIOS}::test_trap_23_weights_are_constants_and_ratios_are_not", traps=(23,))
def importance_weight_carries_gradient(patch: Patch) -> None:
    """Seen where weights are made with gradient: the term multiplies by the weight inside the loss."""
    original = gradient._micro_loss

    def wrong(ctx, batch, rows, planned):
        changed = []
        for item in planned:
            term = item.term
            if isinstance(term.weight, TruncatedImportance):
                # Proportional weights, now with the derivative of the ratio.
                loss = Weighing(term.loss, term.weight.cap)
                plain = term.average(item.mask, batch, lambda x: x)
                term = dataclasses.replace(term, loss=loss, weight=1.0)
                item = gradient.Planned(term, item.batch, item.mask, plain)
            changed.append(item)
        return original(ctx, batch, rows, changed)

    patch.function(original, wrong)


@dataclasses.dataclass(frozen=True)
class Weighing:
    inner: object
    cap: float

    def __call__(self, seen_, batch):
        ratio = torch.where(batch.trained, seen_["old"].logp - batch.step["behaviour"], 0.0).exp()
        return ratio.clamp(max=self.cap) * self.inner(seen_, batch)

    def watch(self, seen_, batch):
        return {}


@mutant(
    f"{RATIOS}::test_trap_23_weights_are_constants_and_ratios_are_not",
    f"{DIVERGENCE}::test_trap_24_expected_gradient_of_the_kl_terms",
    traps=(23, 24),
)
def importance_weight_of_the_divergence_detached(patch: Patch) -> None:
    def wrong(logp, reference, behaviour):
        return (logp - behaviour).exp().detach() * (logp - reference)

    patch.function(divergence.kl_gradient, wrong)


@mutant(
    f"{DIVERGENCE}::test_trap_24_expected_gradient_of_the_kl_terms",
    "test_opd::test_expected_sampled_gradient_is_that_of_the_reverse_kl",
    traps=(24,),
)
def sampled_distillation_differentiates_k1(patch: Patch) -> None:
    def wrong(self, seen_, batch):
        return seen_["policy"].logp - seen_["teacher"].logp

    patch.method(SampledReverseKL, "__call__", wrong)


@mutant(
    f"{DIVERGENCE}::test_trap_24_expected_gradient_of_the_kl_terms",
    "test_grpo::test_grpo_gradient_off_the_old_policy_and_off_the_reference",
    traps=(24,),
)
def divergence_differentiates_k3(patch: Patch) -> None:
    patch.function(divergence.kl_gradient, lambda logp, reference, behaviour: divergence.k3(logp - reference))


@mutant(f"{DIVERGENCE}::test_trap_24_expected_gradient_of_the_kl_terms", traps=(24,))
def divergence_without_importance_weight(patch: Patch) -> None:
    """Right on-policy, biased off-policy."""
    patch.method(KLToReference, "__call__", lambda self, seen, batch: K2Loss()(seen, batch))


@mutant(f"{DIVERGENCE}::test_trap_24_estimators_as_losses_have_the_stated_bias", "test_losses::test_estimators_by_hand")
def k3_of_the_wrong_sign(patch: Patch) -> None:
    original = divergence.k3
    patch.function(original, lambda log_ratio: original(-log_ratio))
