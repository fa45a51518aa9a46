"""Planted bugs of references, random streams and metrics (traps 38, 46 and 49)."""

import dataclasses

import torch
from mutants import (
    LOOPS,
    RATIOS,
    RUN,
    Patch,
    mutant,
)

from policyopt import compose
from policyopt.objective import surrogates
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops import random
from policyopt.policies.tabular import Table
from policyopt.run import Meter
from policyopt.types import Categorical
from policyopt.update.gradient import GradientSteps


# -- 38 ---------------------------------------------------------------------------------------------------------
@mutant(f"{RUN}::test_trap_38_the_reference_is_bitwise_unchanged", traps=(38,))
def reference_is_the_policy(patch: Patch) -> None:
    patch.function(compose.frozen, lambda model: model)


@mutant(f"{RUN}::test_trap_38_the_reference_is_bitwise_unchanged", traps=(38,))
def reference_follows_the_policy(patch: Patch) -> None:
    apply = GradientSteps.apply

    def wrong(self, ctx, models):
        apply(self, ctx, models)
        if "reference" in ctx.models:
            with torch.no_grad():
                for other, mine in zip(
                    ctx.models["reference"].parameters(), ctx.models["policy"].parameters(), strict=True
                ):
                    other.lerp_(mine, 1e-9)

    patch.method(GradientSteps, "apply", wrong)


@mutant(f"{RUN}::test_trap_38_a_step_moves_its_own_model_only", traps=(38,))
def a_step_decays_other_models(patch: Patch) -> None:
    apply = GradientSteps.apply

    def wrong(self, ctx, models):
        apply(self, ctx, models)
        with torch.no_grad():
            for name in ctx.models:
                for parameter in ctx.models[name].parameters():
                    parameter.mul_(1 - 1e-6)

    patch.method(GradientSteps, "apply", wrong)


# -- 46 ---------------------------------------------------------------------------------------------------------
@mutant(f"{RUN}::test_trap_46_streams_are_functions_of_their_key", traps=(46,))
def one_stream_for_all_rows(patch: Patch) -> None:
    original = random.uniforms
    patch.function(original, lambda keys, position, width: original(torch.zeros_like(keys), position, width))


@mutant(f"{RUN}::test_trap_46_streams_are_functions_of_their_key", traps=(46,))
def streams_that_remember(patch: Patch) -> None:
    patch.function(random.uniforms, lambda keys, position, width: torch.rand(len(keys), width, dtype=torch.float64))


@mutant(f"{RUN}::test_trap_46_uniforms_are_uniform_and_independent", traps=(46,))
def counter_without_a_hash(patch: Patch) -> None:
    def wrong(keys, position, width):
        offset = torch.arange(1, width + 1)
        return ((keys[:, None] + position_column(position) + offset) % 1024).double() / 1024

    def position_column(position):
        return position[:, None] if isinstance(position, torch.Tensor) else position

    patch.function(random.uniforms, wrong)


@mutant(f"{RUN}::test_trap_46_rows_do_not_depend_on_neighbours_and_runs_repeat", traps=(46,))
def seed_not_used(patch: Patch) -> None:
    original = random.generator
    patch.function(original, lambda *names: original(*names[1:]))


@mutant(f"{RUN}::test_trap_46_samples_follow_their_distribution", traps=(46,))
def sampling_one_choice_too_far(patch: Patch) -> None:
    sample = Categorical.sample
    patch.method(Categorical, "sample", lambda self, u: (sample(self, u) + 1).clamp(max=self.logp.shape[-1] - 1))


@mutant(
    f"{RUN}::test_temperature_shapes_sampling_and_scores_alike",
    "test_traps_ratios::test_trap_14_a_table_scores_what_it_sampled",
)
def temperature_ignored_in_scores(patch: Patch) -> None:
    score = Table.score

    def wrong(self, batch, context=None, *, full=False):
        plain = batch.with_rows({"temperature": torch.ones_like(batch.row["temperature"])})
        return score(self, plain, context, full=full)

    patch.method(Table, "score", wrong)


@mutant(f"{RUN}::test_temperature_shapes_sampling_and_scores_alike")
def temperature_ignored_in_sampling(patch: Patch) -> None:
    patch.method(Categorical, "tempered", lambda self, temperature: self)


# -- 49 ---------------------------------------------------------------------------------------------------------
@mutant(f"{RUN}::test_trap_49_metrics_do_not_depend_on_padding_or_micro_batches", traps=(49,))
def metrics_over_padding(patch: Patch) -> None:
    add = Meter.add

    def wrong(self, name, value, count):
        add(self, name, value, count if float(count) <= 1 else float(count) + 1)

    patch.method(Meter, "add", wrong)


@mutant(
    f"{RUN}::test_trap_49_a_meter_weighs_by_count",
    f"{RUN}::test_trap_49_metrics_do_not_depend_on_padding_or_micro_batches",
    traps=(49,),
)
def means_of_means(patch: Patch) -> None:
    add = Meter.add

    def wrong(self, name, value, count):
        add(self, name, float(value) / float(count) if float(count) else value, 1 if float(count) else 0)

    patch.method(Meter, "add", wrong)


@mutant(f"{RUN}::test_trap_49_clipped_fraction_and_divergence_in_closed_form", traps=(49,))
def clipped_fraction_counted_after_clipping(patch: Patch) -> None:
    original = surrogates.out_of_range

    def wrong(ratio, advantage, low, high):
        return original(ratio.clamp(1 - low, 1 + high), advantage, low, high)

    patch.function(original, wrong)


@mutant(f"{RUN}::test_trap_49_entropy_is_entropy", LOOPS, traps=(49,))
def entropy_of_the_wrong_sign(patch: Patch) -> None:
    entropy = Categorical.entropy
    patch.method(Categorical, "entropy", lambda self: -entropy(self))


@mutant(f"{RUN}::test_trap_49_metrics_of_a_round_by_hand", traps=(49,))
def reward_metric_counts_unscored_rows(patch: Patch) -> None:
    mean = Meter.mean

    def wrong(self, name, values, mask):
        mean(self, name, values, torch.ones_like(mask))

    patch.method(Meter, "mean", wrong)


@mutant("test_losses::test_clipped_fraction_counts_only_steps_without_gradient", traps=(49,))
def steps_without_advantage_count_as_clipped(patch: Patch) -> None:
    def wrong(ratio, advantage, low, high):
        return ((ratio > 1 + high) | (ratio < 1 - low)).to(ratio.dtype)

    patch.function(surrogates.out_of_range, wrong)


@mutant(f"{RATIOS}::test_trap_22_clip_table_and_dual_clip", traps=(49,))
def dual_clip_not_counted_as_clipped(patch: Patch) -> None:
    watch = ClippedSurrogate.watch
    patch.method(ClippedSurrogate, "watch", lambda self, s, b: watch(dataclasses.replace(self, dual_clip=None), s, b))


@mutant(f"{RUN}::test_trap_46_streams_are_the_published_hash", traps=(46,))
def hash_with_another_shift(patch: Patch) -> None:
    original = random._shifted
    patch.function(original, lambda x, bits: original(x, 28 if bits == 27 else bits))
