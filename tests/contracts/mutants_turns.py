"""Planted bugs of turns, states and tests."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.constraint.contexts import ContextDependence
from policyopt.credit.turns import TurnAdvantage
from policyopt.feedback.contexts import MaskedContext
from policyopt.ops import pieces
from policyopt.reward import weighted_tests
from policyopt.selection.turns import TurnsAsRows

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
