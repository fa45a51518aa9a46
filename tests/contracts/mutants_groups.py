"""Planted bugs of losses over whole groups, of rows beside own rows and of advantages of groups."""

import dataclasses

import torch
from mutants import Patch, mutant

from policyopt.constraint.hinge import SquaredHinge
from policyopt.credit import beta, given, risk
from policyopt.objective import balanced_clip, implicit, implicit_negative, one_step
from policyopt.ops import comparisons
from policyopt.ops.groups import others_mean
from policyopt.ops.sequences import total_reward
from policyopt.sampling import heated
from policyopt.selection import routed
from policyopt.types import Source
from policyopt.update import grouped


@mutant(
    "test_pacs::test_at_the_old_policy_without_weights_it_is_beta_times_rloo",
    "test_losses::test_all_losses_equal_the_loops",
)
def others_without_gradient(patch: Patch) -> None:
    """The baseline of a classifier's logit is detached."""
    patch.function(others_mean, lambda x, ids, valid: others_mean(x.detach(), ids, valid))


@mutant("test_gvpo::test_gradient_off_the_anchor_in_full", "test_gvpo::test_at_the_anchor_it_is_beta_times_rloo")
def squares_over_the_size_of_the_group(patch: Patch) -> None:
    call = implicit.ImplicitRegression.__call__

    def wrong(self, seen, batch):
        count = implicit.group_count(batch.row["group"], batch.trained.any(1))
        return call(self, seen, batch) * (count - 1) / count

    patch.method(implicit.ImplicitRegression, "__call__", wrong)


@mutant("test_p3o_pairwise::test_without_a_clip_the_joint_form_has_the_stated_gradient")
def pair_weights_with_gradient(patch: Patch) -> None:
    def wrong(self, seen, batch):
        change, counted = implicit.log_change(seen, batch, "old").sum(1), batch.trained.any(1)
        first, second = implicit.pairs_within(batch.row["group"], counted, counted).T
        apart, reward = change[first] - change[second], total_reward(batch)
        better = reward[first] - reward[second]
        both = (change[first] + change[second]).exp()
        loss = -0.5 * both * torch.minimum(apart * better, apart.clamp(-self.clip, self.clip) * better)
        return torch.zeros_like(change).index_add(0, first, loss)

    patch.method(implicit.JointPairSurrogate, "__call__", wrong)


@mutant(
    "test_copg::test_the_gradient_is_the_contrastive_one",
    "test_dypo::test_of_one_right_and_one_wrong_row_the_alignment_is_dpo",
)
def groups_weigh_by_their_rows(patch: Patch) -> None:
    def wrong(self, mask, batch, total):
        return mask.double() / total(mask.double().sum()).clamp(min=1)

    patch.method(grouped.GroupMean, "__call__", wrong)


@mutant("test_drpo::test_soft_maxima_and_shares_are_stable_and_ragged")
def exponentials_without_the_largest(patch: Patch) -> None:
    patch.function(comparisons.largest, lambda x, ids, valid: torch.zeros_like(x))


@mutant("test_drpo::test_right_rows_share_a_weight_of_one_and_are_never_pushed_down")
def weights_centred_on_the_right_rows(patch: Patch) -> None:
    """Long right rows get a weight below 0."""
    share = comparisons.group_share

    def wrong(x, ids, valid):
        found = share(x, ids, valid)
        return torch.where(valid, found - implicit.group_mean(found, ids, valid), 0.0)

    patch.function(share, wrong)


@mutant("test_drpo::test_the_penalty_has_the_gradient_of_a_squared_hinge")
def hinge_that_is_open(patch: Patch) -> None:
    patch.method(SquaredHinge, "__call__", lambda self, seen, batch: torch.tensor(self.scale))


@mutant("test_nft::test_wrong_rows_off_policy_by_hand", "test_nft::test_the_floor_keeps_the_value_not_the_gradient")
def floor_without_gradient(patch: Patch) -> None:
    patch.function(implicit_negative.raised, lambda x, floor: x.clamp(min=floor))


@mutant("test_nft::test_without_wrong_rows_it_is_rejection_fine_tuning")
def share_of_right_rows_over_the_batch(patch: Patch) -> None:
    def wrong(self, seen, batch):
        right = implicit.right_rows(batch, self.threshold).double().mean().expand(len(batch))
        return batch.with_rows({implicit_negative.SHARE: right.clamp(self.least, 1 - self.least)})

    patch.method(implicit_negative.ImplicitNegative, "plan", wrong)


@mutant("test_grao::test_advantages_by_hand", "test_grao::test_two_terms_are_the_objective_of_three")
def reference_in_the_statistics(patch: Patch) -> None:
    call = given.OnOwnScale.__call__

    def wrong(self, ctx, batch):
        source = batch.row["source"]
        done = call(self, ctx, batch.with_rows({"source": torch.zeros_like(source)}))
        return done.with_rows({"source": source})

    patch.method(given.OnOwnScale, "__call__", wrong)


@mutant("test_oorl_gepo::test_credit_of_own_rows_does_not_see_the_others")
def given_rows_stay_scored(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        done = self.inner(ctx, batch)
        own = (batch.row["source"] == Source.POLICY)[:, None]
        return done.with_steps({"advantage": torch.where(own, done.step["advantage"], self.given)})

    patch.method(given.OfOwnRows, "__call__", wrong)


@mutant("test_bnpo::test_groups_count_once_however_many_rows_they_have")
def rates_weigh_by_rows(patch: Patch) -> None:
    fitted = beta.fitted
    patch.function(fitted, lambda rates, total: fitted(torch.cat([rates[:1].repeat(3), rates[1:].repeat(5)]), total))


@mutant("test_riskpo::test_the_first_round_takes_its_own_quantiles_and_later_ones_are_tracked")
def quantiles_written_when_read(patch: Patch) -> None:
    call = risk.RiskAdvantage.__call__

    def wrong(self, ctx, batch):
        out = call(self, ctx, batch)
        ctx[risk.QUANTILES] = [0.0, 1.0]
        return out

    patch.method(risk.RiskAdvantage, "__call__", wrong)


@mutant("test_riskpo::test_the_safe_form_has_the_sign_of_the_row_and_is_never_larger_than_its_paper")
def safe_form_with_the_sign_of_the_paper(patch: Patch) -> None:
    shared = risk.RiskAdvantage.shared

    def wrong(self, whole, reward, paper, batch):
        return shared(self, whole, reward, paper, batch) * whole.sign()

    patch.method(risk.RiskAdvantage, "shared", wrong)


@mutant("test_bapo::test_bounds_are_of_the_whole_step_not_of_a_micro_batch")
def bounds_of_every_micro_batch(patch: Patch) -> None:
    plan = balanced_clip.BalancedClip.plan

    def call(self, seen, batch):
        return self.inner()(seen, plan(self, seen, batch))

    patch.method(balanced_clip.BalancedClip, "__call__", call)


@mutant("test_bapo::test_the_upper_bound_is_searched_first")
def lower_bound_first(patch: Patch) -> None:
    search = balanced_clip.BalancedClip.search

    def wrong(self, ratio, advantage, total):
        return search(dataclasses.replace(self, first="low"), ratio, advantage, total)

    patch.method(balanced_clip.BalancedClip, "search", wrong)


@mutant("test_dypo::test_only_teachers_are_left_when_nothing_is_solved")
def routed_by_the_teachers_row_as_well(patch: Patch) -> None:
    call = routed.RoutedRows.__call__

    def wrong(self, ctx, batch):
        ids, right = batch.row["group"], total_reward(batch) > self.threshold
        every = torch.ones_like(right)
        good, bad = routed.group_count(ids, every & right), routed.group_count(ids, every & ~right)
        own = batch.row["source"] == Source.POLICY
        return batch[((good == 0) & ~own) | ((good > 0) & (bad > 0) & own)] if len(batch) else call(self, ctx, batch)

    patch.method(routed.RoutedRows, "__call__", wrong)


@mutant("test_aepo_entropy::test_injected_rows_are_scored_at_temperature_one")
def injected_rows_keep_their_temperature(patch: Patch) -> None:
    call = heated.EntropyControlled.__call__

    def wrong(self, ctx, draw, judge):
        rows = call(self, ctx, draw, judge)
        injected = rows.row["source"] == Source.INJECTED
        return rows.with_rows({"temperature": torch.where(injected, self.hot, rows.row["temperature"])})

    patch.method(heated.EntropyControlled, "__call__", wrong)


@mutant("test_otr::test_draws_are_unbiased_and_made_once_for_a_step")
def draws_from_the_uniform_distribution(patch: Patch) -> None:
    chances = one_step.OneStepRollout.chances

    def wrong(self, seen, batch):
        found = chances(self, seen, batch)
        return torch.full_like(found, 1 / found.shape[-1]) if self.count else found

    patch.method(one_step.OneStepRollout, "chances", wrong)
