"""Planted bugs of graded rewards, judged steps, certainty of answers, contrasts and pruning."""

import torch
from mutants import LOOPS, Patch, mutant, replaced

from policyopt.constraint.entropy_covariance import CovarianceEntropy
from policyopt.credit import uncertainty
from policyopt.ops import metrics, schedules
from policyopt.ops.masked import placed
from policyopt.ops.sequences import on_last
from policyopt.reward import contrast, heads, loops, steps
from policyopt.reward.checks import Checked, passed_share
from policyopt.reward.dithering import Dithered
from policyopt.reward.steps import ShapedChain, WhereNoneRight
from policyopt.sampling import exchange
from policyopt.selection import pruning
from policyopt.selection.pruning import LargestAdvantages, LargestSteps

PARTS = "test_graded_parts"


@mutant(f"{PARTS}::test_ramps_begin_and_end_where_they_say")
def last_round_is_short_of_the_end(patch: Patch) -> None:
    patch.function(schedules.progress, lambda done, total: min(1.0, done / total))


@mutant(f"{PARTS}::test_dither_has_mean_zero_and_the_same_deviation")
def normal_noise_of_the_full_width(patch: Patch) -> None:
    call = Dithered.__call__

    def wrong(self, ctx, batch):
        return call(replaced(self, scale=self.scale * (3**0.5 if self.noise == "normal" else 1.0)), ctx, batch)

    patch.method(Dithered, "__call__", wrong)


@mutant("test_redit::test_unscored_rows_stay_out")
def noise_on_unscored_rows(patch: Patch) -> None:
    call = Dithered.__call__

    def wrong(self, ctx, batch):
        every = torch.ones_like(batch.row["scored"])
        return call(self, ctx, batch.with_rows({"scored": every})).with_rows({"scored": batch.row["scored"]})

    patch.method(Dithered, "__call__", wrong)


@mutant(f"{PARTS}::test_leading_share_and_geometric_mean_equal_the_loops")
def right_steps_after_a_wrong_one_count(patch: Patch) -> None:
    def wrong(said, counted, right=0.5):
        return (counted & (said >= right)).sum(1).to(said.dtype) / counted.sum(1).clamp(min=1)

    patch.function(steps.leading_share, wrong)


@mutant(f"{PARTS}::test_leading_share_and_geometric_mean_equal_the_loops")
def quality_is_the_arithmetic_mean(patch: Patch) -> None:
    def wrong(said, counted):
        return torch.where(counted, said, 0.0).sum(1) / counted.sum(1).clamp(min=1)

    patch.function(steps.geometric_mean, wrong)


@mutant(
    f"{PARTS}::test_only_groups_without_a_right_row_are_judged",
    "test_spectral_po::test_groups_with_a_right_row_are_grpos",
)
def wrong_rows_of_solved_groups_are_judged(patch: Patch) -> None:
    call = WhereNoneRight.__call__

    def wrong(self, ctx, batch):
        return call(self, ctx, batch.with_rows({"group": torch.arange(len(batch))})).with_rows(
            {"group": batch.row["group"]}
        )

    patch.method(WhereNoneRight, "__call__", wrong)


@mutant(f"{PARTS}::test_the_piecewise_factor_is_the_released_one")
def no_gate_at_the_pivot(patch: Patch) -> None:
    growth = ShapedChain._growth
    patch.method(ShapedChain, "_growth", lambda self, mean, count: growth(replaced(self, gate=0.0), mean, count))


@mutant(f"{PARTS}::test_checks_of_other_tasks_do_not_count")
def absent_checks_are_failed(patch: Patch) -> None:
    patch.function(passed_share, lambda checks: checks.nan_to_num().mean(1))


@mutant(f"{PARTS}::test_checks_of_other_tasks_do_not_count")
def most_checks_are_enough(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        share = passed_share(ctx.world.checks(batch))
        worth = (share > 0.5).double() if self.every else share
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, self.weight * worth)})

    patch.method(Checked, "__call__", wrong)


@mutant(f"{PARTS}::test_fuzzy_error_jumps_at_its_limit", "test_fgrpr_crowdvlm::test_the_reward_is_zero_or_above_one")
def fuzzy_reward_without_a_limit(patch: Patch) -> None:
    patch.function(heads.fuzzy, lambda error, limit, most: (most - error).clamp(min=0))


@mutant("test_fgrpr_crowdvlm::test_zero_and_unreadable_numbers")
def unreadable_numbers_stay_unknown(patch: Patch) -> None:
    patch.function(metrics.relative_error, lambda said, wanted: (said - wanted).abs() / wanted.abs())


@mutant("test_vapo_slideasr::test_error_rates_by_hand")
def error_rate_over_what_was_said(patch: Patch) -> None:
    right = metrics.edit_distance
    patch.function(metrics.error_rate, lambda said, wanted: right(said, wanted) / max(len(said), 1))


@mutant(f"{PARTS}::test_repeated_tails_equal_the_definition")
def smallest_period_is_taken(patch: Patch) -> None:
    def wrong(items):
        matches = loops.own_matches(items[::-1])
        for period in range(1, len(items) // 2 + 1):
            if matches[period] >= period:
                return period * (1 + matches[period] // period) / len(items)
        return 0.0

    patch.function(loops.repeated_tail, wrong)


@mutant(f"{PARTS}::test_cluster_entropy_equals_the_loops")
def unread_answers_are_one_meaning(patch: Patch) -> None:
    right = uncertainty.cluster_entropy

    def wrong(keys, group, logit, valid):
        return right(torch.where(keys < 0, 99, keys), group, logit, valid)

    patch.function(uncertainty.cluster_entropy, wrong)


@mutant(f"{PARTS}::test_likelihoods_are_per_step_of_the_row")
def likelihoods_are_of_whole_rows(patch: Patch) -> None:
    patch.monkeypatch.setattr(uncertainty, "masked_mean", lambda x, mask: torch.where(mask, x, 0.0).sum(1))


@mutant("test_gcpo_geometryzero::test_equal_accuracies_or_a_small_difference_pay_nothing")
def contrast_without_a_contrast(patch: Patch) -> None:
    def wrong(worth, ids, told, others):
        return contrast.group_mean(worth, ids, told) - contrast.group_mean(worth, ids, others)

    patch.function(contrast.contrast, wrong)


@mutant(f"{PARTS}::test_the_most_varied_subset_is_that_of_a_search_through_all")
def only_the_best_vary(patch: Patch) -> None:
    patch.function(pruning.most_varied, lambda values, count: values.argsort(descending=True, stable=True)[:count])


@mutant("test_cppo::test_advantages_come_from_the_whole_group_and_the_largest_stay")
def best_advantages_stay(patch: Patch) -> None:
    advantage = pruning.row_advantage
    call = LargestAdvantages.__call__

    def wrong(self, ctx, batch):
        patch.monkeypatch.setattr(pruning, "row_advantage", lambda rows, weights: advantage(rows, weights) + 100.0)
        found = call(self, ctx, batch)
        patch.monkeypatch.setattr(pruning, "row_advantage", advantage)
        return found

    patch.method(LargestAdvantages, "__call__", wrong)


@mutant(f"{PARTS}::test_steps_of_large_advantage_and_entropy_stay_trained")
def share_of_steps_is_rounded_down(patch: Patch) -> None:
    call = LargestSteps.__call__

    def wrong(self, ctx, batch):
        count = int(batch.trained.sum())
        return call(replaced(self, keep=int(self.keep * count) / count), ctx, batch)

    patch.method(LargestSteps, "__call__", wrong)


@mutant(LOOPS)
def gradient_through_the_strength(patch: Patch) -> None:
    def wrong(self, seen, batch):
        own, policy = batch.trained, seen["policy"]
        mean = policy.logp.detach()[own].mean()
        c = (batch.step["advantage"] - batch.step["advantage"][own].mean()) * (policy.logp - mean)
        strength = self.scale * c.masked_fill(~own, -1e9).softmax(1)
        return placed(own, -(strength.clamp(max=self.most) * policy.dist.entropy())[own])

    patch.method(CovarianceEntropy, "__call__", wrong)


@mutant("test_sapo_swarm::test_only_groups_that_differ_are_taken_and_judged_here")
def groups_of_equal_rewards_are_taken(patch: Patch) -> None:
    patch.monkeypatch.setattr(exchange, "informative", lambda x, ids, valid: torch.ones_like(valid))


@mutant("test_sapo_swarm::test_only_groups_that_differ_are_taken_and_judged_here")
def groups_of_others_are_one_group(patch: Patch) -> None:
    external = exchange.Exchanged._external

    def wrong(self, ctx, judge):
        rows = external(self, ctx, judge)
        return rows if rows is None else rows.with_rows({"group": torch.full_like(rows.row["group"], 7)})

    patch.method(exchange.Exchanged, "_external", wrong)
