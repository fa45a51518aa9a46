"""Planted bugs of credit from critics."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.credit.critics import DecomposedAdvantage
from policyopt.reward.dense import LogRatioReward, merged
from policyopt.sampling.collected import UnderSampled


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
