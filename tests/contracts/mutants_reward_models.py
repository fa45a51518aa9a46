"""Planted bugs of reward models, of their losses and of what is made of them."""

from typing import Literal

import torch
from mutants import Patch, mutant, replaced
from torch import Tensor

from policyopt import seen
from policyopt.feedback import annotator, peers
from policyopt.objective import implicit_rewards as teachers
from policyopt.objective import reward_models
from policyopt.ops import comparisons, rankings
from policyopt.policies import classifiers, tabular
from policyopt.reward import follow_ups, implicit_rewards, refinement
from policyopt.reward import reward_models as rewards
from policyopt.sampling import corrupted
from policyopt.selection import agreement, margins

PARTS = "test_reward_models"


@mutant(f"{PARTS}::test_a_table_sums_own_steps_only_and_equals_a_loop")
def rewards_of_steps_of_others(patch: Patch) -> None:
    def wrong(self, batch):
        return torch.where(batch.valid, self.values[batch.step["_state"], batch.step["_step"]], 0.0).sum(1)

    patch.method(tabular.TableReward, "worth", wrong)


@mutant(f"{PARTS}::test_lists_equal_the_loops_and_of_two_rows_are_pairs")
def lists_from_the_worst(patch: Patch) -> None:
    found = reward_models.plackett_luce
    patch.function(found, lambda worth: found(worth.flip(0)))


@mutant(f"{PARTS}::test_a_margin_of_the_pair_is_read_on_its_chosen_row")
def margins_that_are_added(patch: Patch) -> None:
    call = reward_models.PairRanking.__call__

    def wrong(self, seen, batch):
        return call(self, seen, batch.with_rows({"gap": -batch.row["gap"]}))

    patch.method(reward_models.PairRanking, "__call__", wrong)


@mutant(f"{PARTS}::test_model_reward_adds_to_the_last_own_step_without_gradient")
def rewards_replaced_by_those_of_the_model(patch: Patch) -> None:
    call = rewards.ModelReward.__call__

    def wrong(self, ctx, batch):
        return call(self, ctx, batch.with_steps({"reward": torch.zeros_like(batch.step["reward"])}))

    patch.method(rewards.ModelReward, "__call__", wrong)


@mutant("test_preference_models::test_the_form_by_hand")
def a_symmetric_form(patch: Patch) -> None:
    def wrong(first, second):
        return (first[..., 0::2] * second[..., 1::2] + first[..., 1::2] * second[..., 0::2]).sum(-1)

    patch.function(comparisons.skew, wrong)


@mutant("test_preference_models::test_a_conditioned_model_reads_rows_under_the_other_context")
def the_prompt_in_place_of_the_reference_answer(patch: Patch) -> None:
    found = classifiers.Classifier.outputs

    def wrong(self, batch, context=None):
        held, self.context = self.context, None
        said = found(self, batch, context)
        self.context = held
        return said

    patch.method(classifiers.Classifier, "outputs", wrong)


@mutant("test_preference_models::test_win_rates_duels_and_tournaments_are_those_of_the_model")
def opponents_that_are_preferred(patch: Patch) -> None:
    found = seen.preferred
    patch.function(found, lambda ctx, model, batch, first, second: found(ctx, model, batch, second, first))


@mutant("test_crm::test_each_model_learns_what_the_other_finds_clean")
def models_that_choose_for_themselves(patch: Patch) -> None:
    call = peers.PeerReview.__call__

    def wrong(self, ctx, batch):
        done = call(self, ctx, batch)
        return done.with_rows({"taught:first": done.row["taught:second"], "taught:second": done.row["taught:first"]})

    patch.method(peers.PeerReview, "__call__", wrong)


@mutant("test_crm::test_batches_are_sorted_not_pairs")
def batches_from_hard_to_easy(patch: Patch) -> None:
    found = margins.easiest_first

    def wrong(margin: Tensor, count: int, unit: Literal["batch", "pair"] = "batch") -> Tensor:
        return found(-margin, count, unit)

    patch.function(found, wrong)


@mutant("test_implicit_prm::test_prefix_sums_are_soft_values_under_the_reference")
def process_rewards_against_nothing(patch: Patch) -> None:
    found = implicit_rewards.of_pieces
    patch.function(found, lambda gap, batch, piece: found(gap.abs(), batch, piece))


@mutant("test_cooper::test_pairs_are_right_rows_and_wrong_copies_beside_the_attempts")
def pairs_among_the_attempts(patch: Patch) -> None:
    call = corrupted.GroupAndCorrupted.__call__

    def wrong(self, ctx, draw, judge):
        done = call(self, ctx, draw, judge)
        group = done.row["group"]
        return done.with_rows({"group": torch.where(group < 0, -1 - group, group)})

    patch.method(corrupted.GroupAndCorrupted, "__call__", wrong)


@mutant("test_aligndistil::test_equal_teachers_are_plain_reverse_kl_scaled_by_a_thousand")
def divergence_to_the_teacher_without_its_scale(patch: Patch) -> None:
    call = teachers.ExtrapolatedTeacher.__call__

    def wrong(self, seen, batch):
        return call(self, seen, batch) * self.scale / self.beta

    patch.method(teachers.ExtrapolatedTeacher, "__call__", wrong)


@mutant("test_refcritic::test_rewards_by_hand")
def false_alarms_are_paid_for_refinements(patch: Patch) -> None:
    call = refinement.RefinementReward.__call__

    def wrong(self, ctx, batch):
        """Also where nothing was wrong."""
        paid = call(self, ctx, batch)
        alarm = ctx.world.judged_wrong(batch)[:, None] & (batch.step["reward"] == 0)
        alarm[:, :-1] = False
        return paid.with_steps({"reward": torch.where(alarm, self.weight, paid.step["reward"])})

    patch.method(refinement.RefinementReward, "__call__", wrong)


@mutant("test_flr::test_lists_may_differ_in_length_and_a_row_without_one_side_has_nothing")
def sums_of_follow_ups(patch: Patch) -> None:
    def wrong(mean_logp, of, pleased, rows):
        sign = torch.where(pleased, 1.0, -1.0).to(mean_logp)
        return mean_logp.new_zeros(rows).index_add(0, of, sign * mean_logp)

    patch.function(follow_ups.likelihood_contrast, wrong)


@mutant("test_self_ref_feedback::test_two_votes_of_opposite_orders_are_the_filter_of_swap_consistency")
def every_vote_in_the_same_order(patch: Patch) -> None:
    found = annotator.AnnotatedPairs.polled

    def wrong(self, annotate, batch, sides, own, rng):
        ahead, share = found(replaced(self, votes=1), annotate, batch, sides, own, rng)
        return ahead * self.votes, share

    patch.method(annotator.AnnotatedPairs, "polled", wrong)


@mutant("test_rise_judge::test_warm_up_keeps_comparisons_that_are_right_in_both_orders")
def right_in_one_order_is_enough(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        return batch[batch.step["reward"].sum(1) > self.right]

    patch.method(agreement.RightBothWays, "__call__", wrong)


@mutant("test_zo_ranksgd::test_all_ranked_is_centred_linear_rank_shaping")
def places_counted_from_one(patch: Patch) -> None:
    """The weights of the released notebook, m - 2p for ranked ones, do not sum to 0."""
    found = rankings.rank_weights

    def wrong(order, count):
        weights, best = found(order, count), len(order)
        return weights + torch.zeros_like(weights).index_fill(0, order, 1 / (best * (2 * count - best - 1) / 2))

    patch.function(found, wrong)
