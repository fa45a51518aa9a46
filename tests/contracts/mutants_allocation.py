"""Planted bugs of learned task orders, adaptive and allocated numbers of attempts, and stored rows."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.credit import groups, subgroups
from policyopt.ops.groups import group_mean, group_std
from policyopt.ops.sequences import total_reward
from policyopt.sampling import adaptive, replay, store
from policyopt.selection import scored

ADA, GVM, REPO, ARPO = "test_reinforce_ada", "test_gvm_raft", "test_repo_replay", "test_arpo_gui"


@mutant("test_vade::test_fading_by_hand")
def evidence_of_others_does_not_fade(patch: Patch) -> None:
    real = scored.ThompsonTasks.after
    patch.method(scored.ThompsonTasks, "after", lambda self, *done: real(replaced(self, fading=1.0), *done))


@mutant("test_vade::test_draws_have_the_moments_of_beta")
def draws_that_are_not_normalised(patch: Patch) -> None:
    patch.function(scored.draw_beta, lambda a, b, rng: torch.rand(len(a), generator=rng) * 2 * a / (a + b))


@mutant("test_vade::test_tasks_of_mixed_outcomes_are_chosen")
def the_hardest_tasks(patch: Patch) -> None:
    patch.function(scored.information, lambda theta, kind: 1 - theta)


@mutant("test_mmr1_vas::test_scores_are_the_population_variance_and_are_renewed")
def scores_renewed_every_round(patch: Patch) -> None:
    real = scored.PromisingTasks.after
    patch.method(scored.PromisingTasks, "after", lambda self, *done: real(replaced(self, every=1), *done))


@mutant("test_mmr1_vas::test_draws_are_in_proportion_to_scores")
def draws_by_the_square_of_scores(patch: Patch) -> None:
    real = scored.PromisingTasks.scores
    patch.method(scored.PromisingTasks, "scores", lambda self, ctx: real(self, ctx) ** 2)


@mutant(f"{ADA}::test_a_balanced_group_has_the_mean_one_half_less_the_rate")
def baseline_of_the_kept_group(patch: Patch) -> None:
    def call(self, ctx, batch):
        reward, every = total_reward(batch), torch.ones(len(batch)).bool()
        centred = reward - group_mean(reward, batch.row["group"], every)
        return batch.with_steps({"advantage": subgroups.spread(batch, centred)})

    patch.method(subgroups.AgainstRate, "__call__", call)


@mutant(f"{ADA}::test_balanced_choices")
def choices_at_random(patch: Patch) -> None:
    patch.function(
        adaptive.balanced_choice,
        lambda right, size, rng: torch.randperm(len(right), generator=rng)[:size].sort().values,
    )


@mutant(f"{ADA}::test_a_task_leaves_when_its_rule_holds")
def tasks_that_never_leave(patch: Patch) -> None:
    patch.method(adaptive.AdaptiveGroup, "finished", lambda self, right, wrong: torch.zeros_like(right).bool())


@mutant(f"{GVM}::test_weights_by_hand", f"{GVM}::test_without_alpha_the_variance_is_least")
def allocation_by_the_rate_itself(patch: Patch) -> None:
    patch.function(
        adaptive.variance_weights,
        lambda rate, norm, alpha, beta: torch.where(rate > 0, norm / rate.clamp(min=1e-9), 0.0),
    )


@mutant(f"{GVM}::test_allocations_sum_up_and_are_near_their_shares")
def the_last_of_equals_gets_what_is_left(patch: Patch) -> None:
    real = adaptive.allocation
    patch.function(real, lambda weights, total: real(weights.flip(0), total).flip(0))


@mutant(f"{REPO}::test_rows_enter_after_the_round_and_keep_what_they_were")
def replayed_rows_that_look_fresh(patch: Patch) -> None:
    real = store.replayed

    def wrong(rows, group, like):
        made = real(rows, group, like)
        return made.with_rows({"source": torch.zeros_like(made.row["source"])})

    patch.function(real, wrong)


@mutant(f"{REPO}::test_the_widest_choice_is_the_best_of_all")
def the_largest_instead_of_the_widest(patch: Patch) -> None:
    patch.function(replay.widest_choice, lambda reward, size: reward.argsort(descending=True)[:size])


@mutant(f"{REPO}::test_split_normalisation_against_a_loop")
def normalised_by_the_population(patch: Patch) -> None:
    real = groups.standardised
    patch.function(real, lambda reward, ids, valid, epsilon, ddof: real(reward, ids, valid, epsilon, 0))


@mutant(f"{ARPO}::test_spread_and_mean_decide_by_hand")
def rescue_by_the_sample_deviation(patch: Patch) -> None:
    patch.method(replay, "group_std", lambda x, ids, valid, ddof: group_std(x, ids, valid, 1))


@mutant(f"{ARPO}::test_successes_are_stored_once_and_the_newest_stay")
def replayed_rows_are_stored_again(patch: Patch) -> None:
    patch.function(store.fresh, lambda batch: batch)
