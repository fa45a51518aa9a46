"""Planted bugs of tool steps, truncation, preferences and named losses (traps 34, 35, 37, 39 and 40)."""

import torch
from mutants import (
    LOOPS,
    RETURNS,
    SEQUENCES,
    Patch,
    mutant,
)

from policyopt import compose
from policyopt.constraint.divergence import Entropy, K1Loss
from policyopt.credit import returns
from policyopt.feedback.preferences import BestVersusWorst
from policyopt.objective import preference, surrogates
from policyopt.objective.preference import PairLogistic
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.ops import masked, pairs, sequences
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.seen import SeenBatch
from policyopt.selection.tasks import FinishedRows
from policyopt.types import Batch

TOOLS = f"{SEQUENCES}::test_trap_34_observations_change_no_loss"


# -- 34, 35 -----------------------------------------------------------------------------------------------------
@mutant(TOOLS, traps=(34,))
def tool_steps_are_trained_on(patch: Patch) -> None:
    patch.method(Batch, "trained", property(lambda self: self.step["train"] & self.valid))


@mutant(f"{SEQUENCES}::test_trap_34_rewards_of_observations_belong_to_the_step_before", traps=(34,))
def rewards_of_tool_steps_dropped(patch: Patch) -> None:
    patch.function(sequences.fold_rewards, lambda batch, rewards: masked.select(batch.own, rewards))


@mutant(f"{SEQUENCES}::test_trap_34_returns_pass_through_observations", traps=(34,))
def tool_steps_discount_the_return(patch: Patch) -> None:
    def wrong(batch, *columns):
        return list(columns), torch.arange(batch.steps).expand(len(batch), -1)

    patch.function(sequences.pack_own, wrong)


@mutant(f"{SEQUENCES}::test_trap_34_observations_are_no_length_and_no_kl", traps=(34,))
def tool_steps_are_length(patch: Patch) -> None:
    patch.method(Batch, "lengths", property(lambda self: self.valid.sum(1)))


@mutant(f"{SEQUENCES}::test_trap_34_observations_are_no_length_and_no_kl", traps=(34,))
def tool_steps_pay_the_penalty(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        gap = batch.step["behaviour"] - SeenBatch(ctx, batch).compute("reference").logp.detach()
        return batch.with_steps({"reward": batch.step["reward"] - self.beta * batch.valid * gap})

    patch.method(ReferencePenalty, "__call__", wrong)


@mutant(
    f"{SEQUENCES}::test_trap_35_bootstrap_only_where_a_limit_ended_the_row",
    f"{RETURNS}::test_trap_54_table_critic_values_the_state_after_a_cut",
    traps=(35, 54),
)
def no_bootstrap_after_truncation(patch: Patch) -> None:
    original = sequences.generalised_advantage
    patch.function(original, lambda r, v, after, m, gamma, lam: original(r, v, after * 0, m, gamma, lam))


@mutant(f"{SEQUENCES}::test_trap_35_bootstrap_only_where_a_limit_ended_the_row", traps=(35,))
def termination_taken_for_truncation(patch: Patch) -> None:
    class Confused:
        STOPPED = -1  # no row

    patch.monkeypatch.setattr(returns, "Finish", Confused)


@mutant(f"{SEQUENCES}::test_trap_35_declared_reward_of_truncated_rows", traps=(35,))
def truncation_option_ignored(patch: Patch) -> None:
    call = Verified.__call__
    patch.method(Verified, "__call__", lambda self, ctx, batch: call(Verified(), ctx, batch))


@mutant(f"{SEQUENCES}::test_trap_35_truncated_rows_may_leave_every_term", traps=(35,))
def truncated_rows_masked_in_the_numerator_only(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        cut = batch.row["finish"] == 2
        return batch.with_steps({"advantage": batch.step["advantage"] * ~cut[:, None]})

    patch.method(FinishedRows, "__call__", wrong)


# -- 37, 39, 40 -------------------------------------------------------------------------------------------------
@mutant(
    f"{SEQUENCES}::test_trap_37_preference_loss_at_the_reference",
    "test_dpo::test_at_the_reference_the_loss_is_log_two",
    traps=(37,),
)
def pairs_swapped(patch: Patch) -> None:
    original = pairs.pair_rows
    patch.function(original, lambda batch: original(batch).flip(1))


@mutant(f"{SEQUENCES}::test_trap_37_preference_loss_at_the_reference", traps=(37,))
def ties_are_wins(patch: Patch) -> None:
    watch = PairLogistic.watch

    def wrong(self, seen, batch):
        found = dict(watch(self, seen, batch))
        found["accuracy"] = (found["accuracy"] >= 0.5).double()
        return found

    patch.method(PairLogistic, "watch", wrong)


@mutant(f"{SEQUENCES}::test_trap_37_preference_loss_at_the_reference", traps=(37,))
def reference_ignored(patch: Patch) -> None:
    def wrong(self, seen, batch):
        rho = masked.masked_sum(seen["policy"].logp, batch.trained)
        chosen, rejected = pairs.pair_rows(batch).T
        return rho[chosen] - rho[rejected], chosen

    patch.method(PairLogistic, "difference", wrong)


@mutant("test_dpo::test_gradient_weighs_pairs_by_how_wrong_they_are", LOOPS)
def beta_outside_the_logistic(patch: Patch) -> None:
    original = preference.pair_logistic
    patch.function(original, lambda d, beta, e=0.0: beta * original(d, 1.0, e))


@mutant("test_dpo::test_the_tabular_minimiser_is_the_tilted_reference")
def hinge_for_logistic(patch: Patch) -> None:
    patch.function(preference.pair_logistic, lambda d, beta, e=0.0: (1 - beta * d).clamp(min=0))


@mutant("test_dpo::test_online_pairs_are_best_against_worst")
def equal_rewards_make_a_pair(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        reward, group, scored = sequences.total_reward(batch), batch.row["group"], batch.row["scored"]
        rank = torch.full_like(group, -1)
        for one in group[scored].unique():
            rows = ((group == one) & scored).nonzero()[:, 0]
            order = reward[rows].argsort(stable=True)
            rank[rows[order[-1]]], rank[rows[order[0]]] = 0, 1
        return batch.with_rows({"pair": group.clone(), "rank": rank})

    patch.method(BestVersusWorst, "__call__", wrong)


@mutant("test_losses::test_a_pair_counts_only_if_both_sides_are_trained")
def a_pair_with_an_untrained_side_counts(patch: Patch) -> None:
    patch.function(compose.chosen_rows, lambda seen, batch: (batch.row["rank"] == 0) & batch.trained.any(1))


@mutant(f"{SEQUENCES}::test_trap_39_sums_and_means_scale_with_length", LOOPS, traps=(39,))
def preference_by_means(patch: Patch) -> None:
    patch.monkeypatch.setattr(preference, "masked_sum", masked.masked_mean)


@mutant(f"{SEQUENCES}::test_trap_40_every_objective_has_its_own_gradient", traps=(40,))
def configured_loss_is_not_executed(patch: Patch) -> None:
    """A backend that falls back to likelihood for every step loss it does not know."""
    patch.method(K1Loss, "__call__", lambda self, seen, batch: NegativeLogLikelihood()(seen, batch) * -1)
    patch.method(Entropy, "__call__", lambda self, seen, batch: NegativeLogLikelihood()(seen, batch))


@mutant(f"{SEQUENCES}::test_trap_40_every_objective_has_its_own_gradient", traps=(40,))
def one_surrogate_for_both_sequence_ratios(patch: Patch) -> None:
    geometric, product = surrogates.GeometricSequenceSurrogate, surrogates.ProductSequenceSurrogate
    patch.method(product, "__call__", lambda self, s, b: geometric(0.03, 0.04)(s, b))
