"""Planted bugs of critics of steps, of policies moved through them and of their periods (traps 51 and 55)."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.objective import action_values, pathwise
from policyopt.objective.action_values import ExpectileValue, GreedyValue, PolicyValue, SmoothedValue, StateValue
from policyopt.objective.pathwise import ByValueScale, MirrorDescent, TemperatureError
from policyopt.objective.weighted import AdvantageWeighted
from policyopt.ops.masked import select
from policyopt.sampling.exploration import Annealed
from policyopt.types import Batch, Finish
from policyopt.update import following

TARGETS = "test_action_values::test_every_temporal_difference_equals_the_loops"
ENDS = "test_action_values::test_trap_51_only_a_termination_is_worth_nothing_afterwards"


@mutant(TARGETS, ENDS, "test_td3::test_trap_51_a_limit_is_no_end", traps=(51,))
def a_limit_ends_the_value(patch: Patch) -> None:
    patch.function(action_values.ended, lambda batch: action_values.last_own(batch) & batch.done[:, None])


@mutant(TARGETS, ENDS, "test_dqn::test_a_limit_does_not_end_an_episode", traps=(51,))
def values_behind_an_end_count(patch: Patch) -> None:
    patch.function(action_values.ended, lambda batch: torch.zeros_like(batch.own))


@mutant("test_action_values::test_trap_51_flat_transitions_keep_their_ends", traps=(51,))
def every_step_of_a_stopped_row_is_an_end(patch: Patch) -> None:
    stopped = int(Finish.STOPPED)
    patch.function(action_values.ended, lambda batch: batch.own & (batch.row["finish"] == stopped)[:, None])


@mutant(TARGETS, "test_sac::test_its_fixed_point_is_the_soft_optimum", traps=(55,))
def the_state_that_follows_is_the_state(patch: Patch) -> None:
    patch.method(Batch, "following", lambda self, name: self.step[name])


@mutant(TARGETS)
def the_larger_of_two_critics(patch: Patch) -> None:
    original = action_values.over_heads
    wrong = lambda q, heads: q.amax(0) if heads == "least" else original(q, heads)  # noqa: E731
    patch.function(original, wrong)


@mutant(TARGETS, "test_dqn::test_double_takes_the_choice_of_one_and_the_value_of_the_other")
def double_asks_one_model_for_both(patch: Patch) -> None:
    patch.method(
        GreedyValue, "__call__", lambda self, seen, batch: seen.q_all(self.critic, following=True).amin(0).amax(-1)
    )


@mutant(TARGETS, "test_sac::test_its_fixed_point_is_the_soft_optimum")
def no_entropy_in_the_target(patch: Patch) -> None:
    call = PolicyValue.__call__
    patch.method(PolicyValue, "__call__", lambda self, seen, b: call(replaced(self, temperature=0.0), seen, b))


@mutant(TARGETS)
def smoothing_is_not_clipped(patch: Patch) -> None:
    call = SmoothedValue.__call__
    patch.method(SmoothedValue, "__call__", lambda self, seen, batch: call(replaced(self, clip=9.0), seen, batch))


@mutant(TARGETS, "test_iql::test_half_is_the_value_of_who_recorded", traps=(55,))
def value_before_the_step(patch: Patch) -> None:
    patch.method(StateValue, "__call__", lambda self, seen, batch: seen.value(self.critic))


@mutant(
    "test_action_values::test_expectile_equals_the_loops", "test_iql::test_towards_one_it_is_the_best_recorded_value"
)
def expectile_upside_down(patch: Patch) -> None:
    call = ExpectileValue.__call__
    patch.method(ExpectileValue, "__call__", lambda s, seen, b: call(replaced(s, expectile=1 - s.expectile), seen, b))


@mutant("test_action_values::test_mirror_descent_equals_the_loops", "test_mdpo_off::test_equal_weights_make_it_sac")
def the_old_policy_pulls_the_other_way(patch: Patch) -> None:
    call = MirrorDescent.__call__

    def wrong(self, seen, batch):
        return call(replaced(self, temperature=2 * self.proximity - self.temperature + 1e-3), seen, batch)

    patch.method(MirrorDescent, "__call__", wrong)


@mutant(
    "test_action_values::test_temperature_rises_below_the_target_entropy_and_falls_above",
    "test_action_values::test_temperature_error_equals_the_loops",
)
def temperature_of_the_wrong_sign(patch: Patch) -> None:
    call = TemperatureError.__call__
    patch.method(TemperatureError, "__call__", lambda self, seen, batch: -call(self, seen, batch))


@mutant("test_action_values::test_values_by_scale_do_not_depend_on_the_scale_of_rewards")
def the_scale_of_values_is_one(patch: Patch) -> None:
    patch.method(ByValueScale, "__call__", lambda self, seen, batch: torch.tensor(self.alpha))


@mutant("test_awr::test_gradient_is_the_capped_exponential_of_the_advantage")
def weights_without_a_cap(patch: Patch) -> None:
    def wrong(self, batch):
        return (select(batch.trained, batch.step["advantage"]) / self.temperature).exp()

    patch.method(AdvantageWeighted, "weight", wrong)


@mutant(
    "test_sac::test_trap_55_the_target_is_the_moving_average_of_all_updates",
    "test_td3::test_trap_55_targets_move_with_the_policy",
    traps=(55,),
)
def target_weights_swapped(patch: Patch) -> None:
    original = following.follow
    patch.function(original, lambda ctx, model, of, decay: original(ctx, model, of, 1 - decay))


@mutant(
    "test_td3::test_trap_55_targets_move_with_the_policy",
    "test_dqn::test_trap_55_the_target_stands_still_between_its_renewals",
    traps=(55,),
)
def targets_move_at_every_update(patch: Patch) -> None:
    patch.function(following._due, lambda ctx, done, every: True)


@mutant("test_dqn::test_exploration_falls_over_the_first_half")
def exploration_falls_over_the_whole_stage(patch: Patch) -> None:
    level = Annealed.level
    patch.method(Annealed, "level", lambda self, ctx: level(replaced(self, share=1.0), ctx))


@mutant("test_action_values::test_soft_improvement_equals_the_loops")
def new_noise_for_every_micro_batch(patch: Patch) -> None:
    patch.function(pathwise.planned_noise, lambda seen, batch, purpose: batch)
    original = action_values.own_steps

    def wrong(seen, dist, noise, critic, heads, *, following=False):
        noise = action_values.own_noise(seen, "own step") if noise is None else noise
        return original(seen, dist, noise, critic, heads, following=following)

    patch.function(original, wrong)
