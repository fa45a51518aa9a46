"""Planted bugs of trust regions, decoupled surrogates, running moments, averages of weights and dropped samples."""

import math

import torch
from mutants import Patch, mutant

from policyopt.constraint.mirror import InverseAnnealed
from policyopt.credit.running import MOMENTS, RAW, RunningStandardised
from policyopt.objective import decoupled, dropout
from policyopt.ops.masked import select
from policyopt.update import averages, trust_region
from policyopt.update.stopping import ApproximateKL

TRUST, EWMA, PARTS = "test_trust_region", "test_ppo_ewma", "test_onpolicy_parts"


@mutant(f"{TRUST}::test_a_step_beyond_the_limit_is_halved")
def search_without_the_limit(patch: Patch) -> None:
    search = trust_region.TrustRegion._search

    def wrong(self, ctx, closure, before, promised, step, limit):
        return search(self, ctx, closure, before, promised, step, math.inf)

    patch.method(trust_region.TrustRegion, "_search", wrong)


@mutant(f"{TRUST}::test_the_search_takes_the_first_step_that_helps_and_is_allowed")
def search_without_improvement(patch: Patch) -> None:
    def wrong(self, ctx, closure, before, promised, step, limit):
        start = [p.detach().clone() for p in closure.parameters]
        closure.place(start, step)
        return True

    patch.method(trust_region.TrustRegion, "_search", wrong)


@mutant(f"{TRUST}::test_a_step_that_is_not_taken_leaves_every_bit")
def rejected_steps_are_not_taken_back(patch: Patch) -> None:
    place = trust_region._Closure.place

    def wrong(self, start, step=None):
        if step is not None:
            place(self, start, step)

    patch.method(trust_region._Closure, "place", wrong)


@mutant(
    f"{TRUST}::test_a_softmax_table_moves_along_the_natural_gradient",
    f"{TRUST}::test_a_linear_goal_in_an_ellipse_by_hand",
    "test_trpo::test_the_step_does_not_depend_on_the_parameterisation",
)
def direction_is_the_plain_gradient(patch: Patch) -> None:
    patch.function(trust_region.conjugate_gradient, lambda product, target, iterations: target.clone())


@mutant(f"{TRUST}::test_damping_is_added_to_the_curvature_and_shortens_the_step")
def length_without_damping(patch: Patch) -> None:
    def wrong(self, closure, slope, limit):
        x = trust_region.conjugate_gradient(lambda v: closure.product(v) + self.damping * v, slope, self.iterations)
        return (2 * limit / (x @ closure.product(x))).sqrt() * x

    patch.method(trust_region.TrustRegion, "_direction", wrong)


@mutant(f"{EWMA}::test_the_clip_is_around_the_proximal_policy_and_the_weight_from_the_behaviour")
def clipped_around_the_behaviour_policy(patch: Patch) -> None:
    logs = decoupled.DecoupledSurrogate._logs

    def wrong(self, seen, batch):
        now, _, taken = logs(self, seen, batch)
        return now, taken, taken

    patch.method(decoupled.DecoupledSurrogate, "_logs", wrong)


@mutant(f"{EWMA}::test_the_clip_is_around_the_proximal_policy_and_the_weight_from_the_behaviour")
def weighted_by_the_proximal_policy(patch: Patch) -> None:
    logs = decoupled.DecoupledSurrogate._logs

    def wrong(self, seen, batch):
        now, near, _ = logs(self, seen, batch)
        return now, near, near

    patch.method(decoupled.DecoupledSurrogate, "_logs", wrong)


@mutant(f"{EWMA}::test_extreme_ratios_are_truncated_by_raising_the_denominator")
def ratio_clamped_at_its_cap(patch: Patch) -> None:
    def wrong(current, behaviour, cap):
        return torch.maximum(behaviour, current - math.log(cap))  # with gradient: the ratio is then constant

    patch.function(decoupled.sampled_by, wrong)


@mutant(
    f"{EWMA}::test_the_average_is_the_weighted_mean_of_all_weights_so_far",
    f"{EWMA}::test_it_moves_after_every_update_not_every_round",
)
def average_without_correction(patch: Patch) -> None:
    patch.method(
        averages.CorrectedAverage,
        "__call__",
        lambda self, ctx, done=None: averages.follow(ctx, self.model, self.of, self.decay),
    )


@mutant(f"{PARTS}::test_a_stage_that_makes_the_average_again_begins_its_count_again")
def count_of_the_average_outlives_its_model(patch: Patch) -> None:
    cell = averages.CorrectedAverage.cell
    patch.method(
        averages.CorrectedAverage,
        "cell",
        lambda self, ctx: averages.Cell(cell(self, ctx).name.partition("@")[0], lambda: 1.0),
    )


@mutant(f"{PARTS}::test_moments_are_weighted_sums_over_rounds_and_count_steps")
def rounds_weigh_the_same(patch: Patch) -> None:
    moments = RunningStandardised._moments

    def wrong(self, before, raw):
        return moments(self, before, raw.mean()[None]) if len(raw) else moments(self, before, raw)

    patch.method(RunningStandardised, "_moments", wrong)


@mutant(f"{PARTS}::test_parts_read_the_cell_and_only_the_hook_writes_it")
def moments_written_when_read(patch: Patch) -> None:
    call = RunningStandardised.__call__

    def wrong(self, ctx, batch):
        out = call(self, ctx, batch)
        ctx[MOMENTS] = self._moments(ctx[MOMENTS], out.step[RAW][batch.own])
        return out

    patch.method(RunningStandardised, "__call__", wrong)


@mutant("test_d_ppo_dropout::test_what_is_dropped_by_hand")
def largest_scores_dropped(patch: Patch) -> None:
    original = dropout.dropped
    patch.function(original, lambda score, share: original(-score, share))


@mutant("test_d_ppo_dropout::test_the_gradient_is_ppos_on_the_kept_steps")
def dropped_steps_stay_in_the_denominator(patch: Patch) -> None:
    patch.function(dropout.kept_steps, lambda seen, batch: batch.trained)


@mutant("test_mdpo::test_the_pull_grows_with_the_rounds_and_stays_finite")
def pull_that_fades(patch: Patch) -> None:
    def wrong(self, seen, batch):
        return torch.tensor(self.scale * (1 - seen.ctx.stage_step / seen.ctx.stage_total))

    patch.method(InverseAnnealed, "__call__", wrong)


@mutant(f"{PARTS}::test_the_stop_is_asked_before_every_update")
def stop_by_the_mean_log_ratio(patch: Patch) -> None:
    def wrong(self, seen, batch):
        change = select(batch.trained, seen["old"].logp - seen["policy"].logp)
        return change.sum() / batch.trained.sum() > self.limit

    patch.method(ApproximateKL, "__call__", wrong)
