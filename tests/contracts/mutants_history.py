"""Planted bugs of rewards for lengths, of what is remembered, and of what rows are told."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.credit import subgroups
from policyopt.evaluation.experiments import _told
from policyopt.ops.groups import group_mean
from policyopt.reward import lengths
from policyopt.sampling import told
from policyopt.types import StepKind

HAPO, LAPO, HBPO = "test_hapo_history", "test_lapo", "test_hbpo"


@mutant(f"{HAPO}::test_records_of_both_modes_and_their_order")
def history_of_the_latest_round(patch: Patch) -> None:
    real = lengths.recall

    def forgetful(ctx, name, ids):
        return torch.zeros(len(ids)).double() if name == lengths.SHORTEST else real(ctx, name, ids)

    patch.function(lengths.recall, forgetful)


@mutant(f"{HAPO}::test_the_line_by_hand")
def line_that_charges_from_the_record_on(patch: Patch) -> None:
    real = lengths.linear_saving
    patch.function(real, lambda length, target, right, slack=0.1: real(length, target, right, 0.0))


@mutant(f"{HAPO}::test_gradient_against_a_loop")
def wrong_rows_are_paid_for_being_short(patch: Patch) -> None:
    def bonus(self, ctx, batch, right):
        worth = lengths.cosine_saving(batch.lengths.double(), self.record(ctx, batch.row["task"]).clamp(min=1))
        return torch.where(right, worth.clamp(min=-self.floor), worth)

    patch.method(lengths.AgainstHistory, "bonus", bonus)


@mutant(f"{LAPO}::test_the_median_is_the_latest_then_only_falls")
def target_that_also_grows(patch: Patch) -> None:
    real = lengths.NearTheTarget.after
    patch.method(lengths.NearTheTarget, "after", lambda self, *done: real(replaced(self, shrinking=False), *done))


@mutant(f"{LAPO}::test_quantiles_and_bonus_by_hand", f"{LAPO}::test_one_right_row_is_its_own_range")
def middle_of_all_rows(patch: Patch) -> None:
    """Quantiles over wrong rows as well."""

    def bonus(self, ctx, batch, right):
        length, every = batch.lengths.double(), torch.ones_like(right)
        low, high = (lengths.group_quantile(length, batch.row["group"], every, q) for q in (self.low, self.high))
        return torch.where(right, lengths.middle_bonus(length, low, high + 1e-9, 2 * self.decay), 0.0)

    patch.method(lengths.NearTheMiddle, "bonus", bonus)


@mutant(f"{HBPO}::test_rewards_by_hand")
def budgets_without_the_charge_for_distance(patch: Patch) -> None:
    real = lengths.beyond_budget
    patch.function(real, lambda length, budget, limit, beta, alpha: real(length, budget, limit, beta, 0.0))


@mutant(f"{HBPO}::test_advantages_against_a_loop")
def level_of_the_whole_group(patch: Patch) -> None:
    def whole(x, ids, valid):
        return group_mean(x, torch.zeros_like(ids), valid)

    patch.method(subgroups, "group_mean", whole)


@mutant("test_ghpo::test_hints_are_context_and_have_no_gradient")
def hints_that_are_trained(patch: Patch) -> None:
    real = _told.HintedStrings.start

    def start(self, tasks):
        batch = real(self, tasks)
        kind = batch.step["kind"]
        own = torch.where(kind == StepKind.HINT, int(StepKind.OWN), kind).to(kind.dtype)
        return batch.with_steps({"kind": own, "train": own == StepKind.OWN})

    patch.method(_told.HintedStrings, "start", start)


@mutant("test_ghpo::test_a_bonus_for_form_must_not_stop_the_hints")
def hints_for_every_task(patch: Patch) -> None:
    real = told.total_reward
    patch.method(told, "total_reward", lambda batch: real(batch) * (batch.row["hint"] > 0.6))


@mutant("test_igrpo::test_the_best_draft_is_told_and_only_refinements_remain")
def the_worst_draft(patch: Patch) -> None:
    real = told.total_reward
    patch.method(told, "total_reward", lambda batch: -real(batch))


@mutant("test_tapo::test_the_nearest_pattern_is_told")
def the_farthest_pattern(patch: Patch) -> None:
    real = told.MatchingPattern.__call__

    def call(self, ctx, tasks):
        found = real(self, ctx, tasks)
        return len(self.complexities) - 1 - found

    patch.method(told.MatchingPattern, "__call__", call)
