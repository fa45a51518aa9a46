"""Planted bugs of turns, states and tests."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.constraint.contexts import ContextDependence
from policyopt.credit.pairs import SimilarityWeighted
from policyopt.credit.turns import TurnAdvantage
from policyopt.feedback.contexts import MaskedContext
from policyopt.feedback.steps import AgreedSteps
from policyopt.objective.offline import BehaviourConstrained
from policyopt.objective.optimistic import OptimisticSurrogate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops import pieces
from policyopt.reward import weighted_tests
from policyopt.reward.referee import Refereed
from policyopt.reward.rubric import RUBRIC, RubricReward
from policyopt.sampling.verified_pairs import StoredPairs
from policyopt.selection.dropped import MostlyUnsolved
from policyopt.selection.solved import UnretiredTasks
from policyopt.selection.turns import TurnsAsRows
from policyopt.update.turns import TurnMean

GIGPO, VERPO, ITER = "test_gigpo", "test_verpo", "test_iterresearch_eapo"


@mutant(f"{GIGPO}::test_anchor_groups_are_what_the_loops_say")
def anchors_across_groups(patch: Patch) -> None:
    compared = TurnAdvantage.compared

    def wrong(self, ctx, batch, turns):
        return compared(self, ctx, batch.with_rows({"group": torch.zeros_like(batch.row["group"])}), turns)

    patch.method(TurnAdvantage, "compared", wrong)


@mutant(f"{GIGPO}::test_a_state_visited_twice_by_one_row_gives_two_members")
def discount_per_step_not_per_turn(patch: Patch) -> None:
    def wrong(self, values, gamma):
        return self.place.to(values.dtype).neg().exp() * values

    patch.method(pieces.Pieces, "to_go", wrong)


@mutant(f"{GIGPO}::test_pooled_statistics_weigh_long_rows_more")
def pooled_by_row(patch: Patch) -> None:
    call = TurnAdvantage.__call__

    def wrong(self, ctx, batch):
        return call(replaced(self, column=None) if self.of == "total" else self, ctx, batch)

    patch.method(TurnAdvantage, "__call__", wrong)


@mutant(f"{VERPO}::test_turns_are_worth_what_the_loops_say")
def easy_tests_weigh_more(patch: Patch) -> None:
    right = weighted_tests.weights_of_tests
    patch.function(right, lambda rates, slope, width, delta: right(rates, -slope, width, delta + 1))


@mutant(f"{VERPO}::test_tests_passed_alike_share_their_weight")
def crowds_are_not_counted(patch: Patch) -> None:
    right = weighted_tests.weights_of_tests
    patch.function(right, lambda rates, slope, width, delta: right(rates, slope, None, delta))


@mutant(f"{ITER}::test_every_round_is_a_row_whose_ratio_is_its_own")
def rounds_train_the_whole_row(patch: Patch) -> None:
    call = TurnsAsRows.__call__

    def wrong(self, ctx, batch):
        rows = call(self, ctx, batch)
        return rows.with_steps({"train": rows.own})

    patch.method(TurnsAsRows, "__call__", wrong)


@mutant("test_papo::test_on_policy_the_expected_gradient_is_the_forward_divergences")
def dependence_by_the_ratio(patch: Patch) -> None:
    def wrong(self, seen, batch):
        return seen["policy"].logp - seen[self.role].logp

    patch.method(ContextDependence, "estimate", wrong)


@mutant("test_papo::test_the_masked_input_is_another_stream_of_the_same_rows")
def everything_is_masked(patch: Patch) -> None:
    patch.method(MaskedContext, "__call__", lambda self, ctx, b: b.with_context(0 * b.context(), self.name))


@mutant("test_pairuni::test_weights_by_hand")
def similarities_of_any_sign(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        weight = batch.row["similarity"].abs() ** self.power
        return batch.with_steps({"advantage": batch.step["advantage"] * weight[:, None]})

    patch.method(SimilarityWeighted, "__call__", wrong)


@mutant("test_var_grpo::test_masked_rows_and_empty_masks")
def long_rows_weigh_more(patch: Patch) -> None:
    patch.method(TurnMean, "__call__", lambda self, mask, batch, total: mask.double() / mask.sum())


@mutant("test_voicegrpo::test_the_released_form_is_the_reverse_of_pessimism")
def pessimistic_after_all(patch: Patch) -> None:
    patch.method(OptimisticSurrogate, "__call__", lambda self, seen, batch: ClippedSurrogate()(seen, batch))


@mutant("test_bcpg_nsa::test_without_tau_the_gradient_of_every_log_probability_is_minus_w_a_over_the_rows")
def good_steps_of_right_rows_spared(patch: Patch) -> None:
    def wrong(self, seen, batch):
        weight = torch.where(batch.step["good"] > 0, self.good, 1.0)
        return weight * batch.step["advantage"]

    patch.method(BehaviourConstrained, "weighted", wrong)


@mutant("test_bcpg_nsa::test_both_judges_must_agree")
def the_first_judge_decides(patch: Patch) -> None:
    call = AgreedSteps.__call__
    patch.method(AgreedSteps, "__call__", lambda self, *args: call(replaced(self, judges=self.judges[:1]), *args))


@mutant("test_veripo::test_pairs_are_a_good_row_against_one_of_every_cause")
def good_rows_need_only_be_right(patch: Patch) -> None:
    call = StoredPairs.of_task
    patch.method(StoredPairs, "of_task", lambda self, rows, checks, rng: call(self, rows, checks[:, :1], rng))


@mutant("test_veripo::test_solved_tasks_are_dropped_with_a_probability_and_all_drawn_again_when_none_is_left")
def solved_tasks_all_dropped(patch: Patch) -> None:
    patch.method(MostlyUnsolved, "after", UnretiredTasks.after)


@mutant("test_urpo::test_rewards_are_the_mean_over_calls_of_what_the_referee_rows_say")
def scores_in_the_order_of_the_rows(patch: Patch) -> None:
    """The shuffled order is forgotten."""
    call = Refereed.__call__

    def wrong(self, ctx, batch):
        found = call(self, ctx, batch)
        return found.with_steps({"reward": found.step["reward"].roll(1, 0)})

    patch.method(Refereed, "__call__", wrong)


@mutant("test_mpo_meta_reward::test_only_rows_since_the_last_rewriting_are_looked_at")
def old_rows_looked_at_again(patch: Patch) -> None:
    after = RubricReward.after

    def wrong(self, ctx, done):
        rows = ctx[RUBRIC]["rows"]
        after(self, ctx, done)
        if ctx[RUBRIC]["rows"] is None and rows is not None:
            ctx[RUBRIC] = {**ctx[RUBRIC], "rows": rows}

    patch.method(RubricReward, "after", wrong)


@mutant("test_mpo_meta_reward::test_the_rubric_is_rewritten_every_k_rounds_and_the_next_round_is_judged_by_it")
def the_first_rubric_for_ever(patch: Patch) -> None:
    patch.method(RubricReward, "present", lambda self, ctx: ctx.world.first_rubric())
