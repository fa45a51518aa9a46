"""Planted bugs of reward models, of their losses and of what is made of them."""

import torch
from mutants import Patch, mutant

from policyopt.objective import reward_models
from policyopt.policies import tabular
from policyopt.reward import reward_models as rewards

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
