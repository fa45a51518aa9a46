"""Planted bugs of credit from critics."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.credit.critics import DecomposedAdvantage, HeldAdvantage, PolicyValueAdvantage
from policyopt.credit.flow import scaled_in_rows
from policyopt.credit.tokens import said_of_steps
from policyopt.objective.successors import SarsaError
from policyopt.ops.searches import information_gain
from policyopt.ops.sequences import fold_rewards, pack_own
from policyopt.reward.dense import LogRatioReward, TurnReward, merged
from policyopt.sampling.collected import UnderSampled
from policyopt.sampling.windows import Windows
from policyopt.seen import SeenBatch
from policyopt.update.improving import PolicyImprovement
from policyopt.update.optimistic import counted


@mutant("test_poad::test_token_deltas_of_an_action_add_up_to_the_actions", "test_poad::test_two_turns_by_hand")
def time_passes_inside_an_action(patch: Patch) -> None:
    patch.method(DecomposedAdvantage, "discount", lambda self, batch: torch.full_like(batch.step["reward"], self.gamma))


@mutant("test_ppo_max::test_scores_by_hand_over_two_rounds")
def scores_forget_earlier_rounds(patch: Patch) -> None:
    original = merged
    nothing = {"count": 0.0, "mean": 0.0, "squares": 0.0}
    patch.function(original, lambda before, scores: original(nothing, scores))


@mutant(
    "test_rto::test_unclipped_token_rewards_add_up_to_dpos_reward", "test_rto::test_the_reward_of_every_step_by_hand"
)
def token_rewards_the_wrong_way_round(patch: Patch) -> None:
    call = LogRatioReward.__call__

    def wrong(self, ctx, batch):
        return call(replaced(self, coefficient=-self.coefficient), ctx, batch)

    patch.method(LogRatioReward, "__call__", wrong)


@mutant("test_props::test_rows_of_the_last_batches_are_trained_on_with_present_log_probabilities")
def one_batch_too_many_is_kept(patch: Patch) -> None:
    after = UnderSampled.after
    patch.method(
        UnderSampled, "after", lambda self, ctx, done: after(replaced(self, batches=self.batches + 1), ctx, done)
    )


@mutant(
    "test_oreal::test_the_token_model_reads_the_state_after_each_step",
    "test_dvpo::test_exact_advantages_give_the_policy_gradient",
)
def steps_are_valued_by_the_state_before_them(patch: Patch) -> None:
    def wrong(ctx, batch, model):
        return torch.where(batch.own, SeenBatch(ctx, batch).value(model).detach(), 0.0)

    patch.function(said_of_steps, wrong)


@mutant("test_prm_code_rl::test_rewards_of_lines_by_hand_and_their_bound")
def lines_are_paid_without_a_bound(patch: Patch) -> None:
    call = TurnReward.__call__
    patch.method(TurnReward, "__call__", lambda self, ctx, batch: call(replaced(self, bound=1e9), ctx, batch))


@mutant("test_dvpo::test_values_of_steps_by_hand", "test_dvpo::test_the_value_model_equals_the_loops")
def targets_carry_gradient(patch: Patch) -> None:
    def wrong(self, seen, batch):
        said = torch.where(batch.own, seen.value(self.critic, following=True), 0.0)
        rewards = fold_rewards(batch, batch.step["reward"])
        (reward, value), back = pack_own(batch, rewards, said)
        following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
        return torch.where(batch.trained, said - (reward + self.gamma * following).gather(1, back), 0.0) ** 2

    patch.method(SarsaError, "__call__", wrong)


@mutant("test_t_ppo::test_a_row_that_goes_on_is_worth_its_last_state")
def rows_that_go_on_end_in_nothing(patch: Patch) -> None:
    patch.method(HeldAdvantage, "beyond", lambda self, batch, values: torch.zeros(len(batch)))


@mutant("test_t_ppo::test_unfinished_rows_are_paid_nothing_and_train_no_critic")
def unfinished_rows_are_paid(patch: Patch) -> None:
    call = Windows.__call__
    patch.method(Windows, "__call__", lambda self, *given: call(replaced(self, paid="steps"), *given))


@mutant("test_pipo::test_the_signal_by_hand")
def worse_rounds_repeat_the_step(patch: Patch) -> None:
    signal = PolicyImprovement.signal
    patch.method(PolicyImprovement, "signal", lambda self, now, past: abs(signal(self, now, past)))


@mutant("test_stepsearch::test_gains_add_up_to_the_best_similarities")
def gains_over_the_search_before_only(patch: Patch) -> None:
    def wrong(similar):
        held = similar.nan_to_num(0.0)
        before = torch.cat([torch.zeros_like(held[:, :1]), held[:, :-1]], 1)
        return (held - before).clamp(min=0).mean(2)

    patch.function(information_gain, wrong)


@mutant("test_optimistic_actor_critic::test_rows_that_end_reach_nothing_and_unseen_choices_keep_the_bonus")
def counts_are_changed_in_place(patch: Patch) -> None:
    original = counted

    def wrong(before, batch):
        after = original(before, batch)
        before["visits"].copy_(after["visits"])
        return after

    patch.function(original, wrong)


@mutant("test_rlfr::test_scaling_by_hand")
def deviations_are_scaled_over_padding(patch: Patch) -> None:
    original = scaled_in_rows

    def wrong(score, mask, *given, **named):
        return torch.where(mask, original(score, torch.ones_like(mask), *given, **named), 0.0)

    patch.function(original, wrong)


@mutant(
    "test_hnpg::test_values_are_of_the_policy_under_its_critic",
    "test_hnpg::test_with_the_exact_critic_both_halves_agree",
)
def values_of_the_best_choice(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        value = SeenBatch(ctx, batch).q_all(self.critic).mean(0).amax(-1)
        return torch.cat([value, value[:, -1:]], 1)

    patch.method(PolicyValueAdvantage, "values", wrong)
