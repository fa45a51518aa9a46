"""Planted bugs of averaging, masks and group statistics (traps 1 to 13)."""

import torch
from mutants import (
    DIVERGENCE,
    GROUPS,
    LOOPS,
    NORMALISATION,
    Patch,
    counted,
    mutant,
)

from policyopt.credit.groups import GroupStandardised, LeaveOneOut, standardised
from policyopt.ops import groups, masked
from policyopt.reward.parts import Verified
from policyopt.selection.tasks import InformativeGroups
from policyopt.train import _judge
from policyopt.types import Batch
from policyopt.update import gradient, micro_batches
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum, TokenMean


def per_micro_batch(ctx, batch, rows, planned):
    """Plan again on the micro-batch alone."""
    part = batch[rows]
    again = gradient.plan(ctx, part, [item.term for item in planned])
    return ORIGINAL_MICRO(ctx, part, torch.arange(len(part)), again)


ORIGINAL_MICRO = gradient._micro_loss


@mutant(
    f"{NORMALISATION}::test_trap_01_token_mean_is_over_the_whole_step",
    f"{NORMALISATION}::test_trap_07_every_term_scales_alone",
    "test_gradient_steps::test_statistics_of_the_whole_step_reach_every_micro_batch",
    traps=(1, 7, 28),
)
def mean_per_micro_batch(patch: Patch) -> None:
    patch.function(gradient._micro_loss, per_micro_batch)


@mutant(f"{DIVERGENCE}::test_trap_28_micro_batches_of_1_7_and_all", traps=(28,))
def last_micro_batch_forgotten(patch: Patch) -> None:
    original = gradient.losses

    def losses(ctx, batch, terms, micro_rows=None):
        found = list(original(ctx, batch, terms, micro_rows))
        return iter(found[:-1] if len(found) > 1 else found)

    patch.function(original, losses)


@mutant(f"{NORMALISATION}::test_trap_02_one_owner_of_the_scale", traps=(2,))
def divided_by_the_accumulation_count_again(patch: Patch) -> None:
    original = gradient.planned_losses

    def losses(ctx, batch, planned, passes):
        found = list(original(ctx, batch, planned, passes))
        return iter([loss / len(found) for loss in found])

    patch.function(original, losses)


@mutant(f"{NORMALISATION}::test_trap_03_the_window_is_the_optimiser_step", traps=(3,))
def normalised_over_the_generation_batch(patch: Patch) -> None:
    original = gradient.GradientSteps.differentiate

    def differentiate(self, ctx, batch, model):
        everything = getattr(ctx, "whole", None)
        if everything is not None:
            share = int(batch.trained.sum()) / int(everything.trained.sum())
            ctx.total = lambda x: x / share
        return original(self, ctx, batch, model)

    call = gradient.GradientSteps.__call__

    def remember(self, ctx, batch):
        ctx.whole = batch
        return call(self, ctx, batch)

    patch.method(gradient.GradientSteps, "differentiate", differentiate)
    patch.method(gradient.GradientSteps, "__call__", remember)


@mutant(f"{NORMALISATION}::test_trap_04_ranks_of_uneven_counts_sum_to_one_step", traps=(4,))
def mean_per_rank(patch: Patch) -> None:
    def call(self, mask, batch, total):
        ranks = total(torch.ones(()))
        return counted(mask) / counted(mask).sum().clamp(min=1) / ranks

    patch.method(TokenMean, "__call__", call)


@mutant(f"{NORMALISATION}::test_trap_04_ranks_of_uneven_counts_sum_to_one_step", traps=(4,))
def rows_of_one_rank_only(patch: Patch) -> None:
    call = SequenceMean.__call__
    patch.method(SequenceMean, "__call__", lambda self, mask, batch, total: call(self, mask, batch, lambda x: x))


@mutant(
    f"{NORMALISATION}::test_trap_05_masked_steps_leave_the_denominator",
    LOOPS,
    traps=(5,),
)
def untrained_steps_in_the_denominator(patch: Patch) -> None:
    def call(self, mask, batch, total):
        return counted(mask) / total(counted(batch.valid).sum()).clamp(min=1)

    patch.method(TokenMean, "__call__", call)


@mutant(f"{NORMALISATION}::test_trap_05_masked_steps_leave_the_denominator", traps=(5,))
def masked_rows_count_in_the_sequence_mean(patch: Patch) -> None:
    def call(self, mask, batch, total):
        weights = counted(mask)
        return weights / weights.sum(1, keepdim=True).clamp(min=1) / total(torch.tensor(len(mask)))

    patch.method(SequenceMean, "__call__", call)


@mutant("test_averaging::test_an_empty_mask_has_no_weight", traps=(5,))
def empty_mask_divides_by_zero(patch: Patch) -> None:
    patch.method(TokenMean, "__call__", lambda self, mask, batch, total: counted(mask) / total(counted(mask).sum()))


@mutant(f"{NORMALISATION}::test_trap_06_neither_padding_nor_micro_batches_enter_the_scale", traps=(6,))
def padded_width_as_the_constant(patch: Patch) -> None:
    def call(self, mask, batch, total):
        rows = total(counted(mask.any(1)).sum()).clamp(min=1)
        return counted(mask) / rows / mask.shape[1]

    patch.method(SequenceSum, "__call__", call)


@mutant(f"{NORMALISATION}::test_trap_07_every_term_scales_alone", traps=(7,))
def second_term_uses_the_first_terms_count(patch: Patch) -> None:
    original = gradient.plan

    def plan(ctx, batch, terms):
        planned = original(ctx, batch, terms)
        sizes = [item.weights.sum() / weight_of(item.term) for item in planned]
        return [
            gradient.Planned(p.term, p.batch, p.mask, p.weights / s * sizes[0] if float(s) else p.weights)
            for p, s in zip(planned, sizes, strict=True)
        ]

    def weight_of(term):
        return term.weight if isinstance(term.weight, float) else 1.0

    patch.function(original, plan)


@mutant(f"{NORMALISATION}::test_trap_08_length_weights_are_the_documented_ones", traps=(8,))
def token_mean_instead_of_sequence_mean(patch: Patch) -> None:
    patch.method(SequenceMean, "__call__", TokenMean.__call__)


@mutant(f"{NORMALISATION}::test_trap_08_length_weights_are_the_documented_ones", traps=(8,))
def sequence_mean_instead_of_token_mean(patch: Patch) -> None:
    patch.method(TokenMean, "__call__", SequenceMean.__call__)


@mutant(
    f"{GROUPS}::test_trap_09_groups_are_ids",
    "test_rloo::test_two_samples_are_each_others_baseline",
    traps=(9,),
)
def groups_by_stride(patch: Patch) -> None:
    original = groups._sums
    patch.function(original, lambda x, ids, valid: original(x, torch.arange(len(ids)) // 2, valid))


@mutant(f"{GROUPS}::test_trap_09_groups_are_ids", traps=(9,))
def groups_by_task(patch: Patch) -> None:
    call = GroupStandardised.__call__
    patch.method(
        GroupStandardised,
        "__call__",
        lambda self, ctx, batch: call(self, ctx, batch.with_rows({"group": batch.row["task"]})),
    )


@mutant(f"{GROUPS}::test_trap_09_groups_are_ids", traps=(9,))
def a_group_of_one_keeps_its_reward(patch: Patch) -> None:
    call = LeaveOneOut.__call__

    def wrong(self, ctx, batch):
        found = call(self, ctx, batch)
        alone = groups.group_count(batch.row["group"], batch.row["scored"]) == 1
        reward = batch.step["reward"].sum(1)[:, None].expand(-1, batch.steps)
        kept = torch.where(alone[:, None] & batch.own, reward, found.step["advantage"])
        return found.with_steps({"advantage": kept})

    patch.method(LeaveOneOut, "__call__", wrong)


@mutant(f"{GROUPS}::test_trap_10_whitening_counts_every_rank_and_no_padding", traps=(10,))
def whitening_over_one_rank(patch: Patch) -> None:
    original = masked.whiten
    patch.function(original, lambda x, mask, total=None, epsilon=1e-8: original(x, mask, epsilon=epsilon))


@mutant(f"{GROUPS}::test_trap_10_whitening_counts_every_rank_and_no_padding", traps=(10,))
def whitening_over_padding(patch: Patch) -> None:
    original = masked.whiten

    def wrong(x, mask, total=masked.alone, epsilon=1e-8):
        filled = torch.where(mask, x, 0.0)
        return torch.where(mask, original(filled, torch.ones_like(mask), total, epsilon), 0.0)

    patch.function(original, wrong)


def deviation(ddof_of):
    original = groups.group_std
    return original, lambda x, ids, valid, ddof=1: original(x, ids, valid, ddof_of(ddof))


@mutant(f"{GROUPS}::test_trap_11_standard_deviation_and_epsilon", traps=(11,))
def biased_for_unbiased_deviation(patch: Patch) -> None:
    patch.function(*deviation(lambda ddof: 1 - ddof))


@mutant(f"{GROUPS}::test_trap_11_standard_deviation_and_epsilon", traps=(11,))
def epsilon_inside_the_root(patch: Patch) -> None:
    def wrong(reward, ids, scored, epsilon, ddof):
        spread = (groups.group_std(reward, ids, scored, ddof) ** 2 + epsilon).sqrt()
        usable = scored & (groups.group_range(reward, ids, scored) > 0)
        return torch.where(usable, (reward - groups.group_mean(reward, ids, scored)) / spread, 0.0)

    patch.function(standardised, wrong)


@mutant(f"{GROUPS}::test_trap_11_standard_deviation_and_epsilon", traps=(11,))
def equality_by_a_rounded_mean(patch: Patch) -> None:
    def wrong(x, ids, valid):
        return (x - groups.group_mean(x, ids, valid)).abs()

    patch.function(groups.group_range, wrong)


@mutant(f"{GROUPS}::test_trap_12_an_unscored_row_leaves_statistics_and_losses", traps=(12,))
def unscored_row_counts_as_zero(patch: Patch) -> None:
    call = Verified.__call__

    def wrong(self, ctx, batch):
        found = call(self, ctx, batch)
        return found.with_rows({"scored": torch.ones_like(found.row["scored"])})

    patch.method(Verified, "__call__", wrong)


@mutant(f"{GROUPS}::test_trap_12_unknown_rewards_of_unscored_rows_never_enter", traps=(12,))
def group_sums_multiply_by_the_mask(patch: Patch) -> None:
    def wrong(x, ids, valid):
        unique, inverse = ids.unique(return_inverse=True)
        zero = torch.zeros(len(unique), dtype=x.dtype)
        mask = valid.to(x.dtype)
        return zero.index_add(0, inverse, x * mask), zero.index_add(0, inverse, mask), inverse

    patch.function(groups._sums, wrong)


@mutant(f"{GROUPS}::test_trap_12_an_unscored_row_leaves_statistics_and_losses", traps=(12,))
def unscored_row_is_trained_on(patch: Patch) -> None:
    patch.function(_judge, lambda ctx: lambda batch: ctx.stage.reward(ctx, batch))


@mutant(f"{GROUPS}::test_trap_13_policies_for_groups_of_equal_rewards", traps=(13,))
def equal_groups_are_not_dropped(patch: Patch) -> None:
    patch.method(InformativeGroups, "__call__", lambda self, ctx, batch: batch)


@mutant(f"{GROUPS}::test_trap_13_policies_for_groups_of_equal_rewards", traps=(13,))
def equal_groups_leave_the_advantage_only(patch: Patch) -> None:
    """Masked in the policy term but still in the KL term's numerator and all denominators."""

    def wrong(self, ctx, batch: Batch) -> Batch:
        differ = groups.informative(batch.step["reward"].sum(1), batch.row["group"], batch.row["scored"])
        return batch.with_steps({"advantage": batch.step["advantage"] * differ[:, None]})

    patch.method(InformativeGroups, "__call__", wrong)


@mutant(f"{NORMALISATION}::test_minibatches_keep_coupled_rows_together", traps=())
def minibatches_split_pairs(patch: Patch) -> None:
    patch.function(micro_batches.units, lambda batch, couples: torch.arange(len(batch)))


@mutant(f"{NORMALISATION}::test_trap_04_ranks_of_uneven_counts_sum_to_one_step", traps=(4,))
def pairs_of_one_rank_only(patch: Patch) -> None:
    call = RowMean.__call__
    patch.method(RowMean, "__call__", lambda self, mask, batch, total: call(self, mask, batch, lambda x: x))
