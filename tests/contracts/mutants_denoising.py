"""Planted bugs of denoising chains (traps 56 to 58) and of methods for them."""

import copy

import torch
from mutants import DENOISING, LOOPS, Patch, mutant, replaced

from policyopt.credit import denoising, history
from policyopt.credit.denoising import OverDenoising
from policyopt.credit.flat import FlatGroups
from policyopt.credit.heads import PerHead
from policyopt.objective import surrogates
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.clamped import ClampedSurrogate
from policyopt.objective.negative_aware import NegativeAware
from policyopt.objective.self_play import DenoisingPreference
from policyopt.policies.chains import Ddim, FlowSde, NoiseChain
from policyopt.policies.denoising import Denoiser, Guidance
from policyopt.policies.transitions import Averaged, Transition
from policyopt.sampling.branches import Branched
from policyopt.sampling.progress import BackwardProgress
from policyopt.selection import extremes, steps
from policyopt.update import earlier
from policyopt.worlds.denoising import Trainable

CHAINS = "test_denoising"


@mutant(f"{DENOISING}::test_trap_56_the_ratio_of_twice_the_dimensions_under_each_convention", traps=(56,))
def averaged_densities_are_summed(patch: Patch) -> None:
    patch.method(Averaged, "__call__", lambda self, entries: entries.sum(-1))


@mutant(f"{DENOISING}::test_trap_56_the_effective_clip_range_is_reported", traps=(56,))
def effective_clip_is_the_clip(patch: Patch) -> None:
    patch.method(Averaged, "effective_clip", lambda self, clip, dims: clip)


@mutant(f"{DENOISING}::test_trap_57_replay_of_a_stored_trajectory_has_ratio_one_at_every_step", traps=(57,))
def scored_without_guidance(patch: Patch) -> None:
    score = Denoiser.score

    def wrong(self, batch, context=None, *, full=False):
        kept, self.guidance = self.guidance, Guidance()
        found = score(self, batch, context, full=full)
        self.guidance = kept
        return found

    patch.method(Denoiser, "score", wrong)


@mutant(f"{DENOISING}::test_trap_57_replay_of_a_stored_trajectory_has_ratio_one_at_every_step", traps=(57,))
def scores_the_latent_before_the_step(patch: Patch) -> None:
    patch.method(Denoiser, "taken", lambda self, batch: batch.step["_latent"])


@mutant(f"{DENOISING}::test_trap_57_a_linear_gaussian_denoiser_has_the_closed_form_marginal", traps=(57,))
def moves_to_the_level_it_is_at(patch: Patch) -> None:
    """In sampling and in scoring alike, so that no ratio shows it."""

    def wrong(self, chain, predict, latent, index):
        a, b, _, _ = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        raw = chain.raw_std.to(latent)[index][:, None]
        return a * clean + (b**2 - raw**2).clamp(min=0).sqrt() * noise

    patch.method(Ddim, "mean", wrong)


@mutant(f"{DENOISING}::test_trap_57_a_linear_gaussian_denoiser_has_the_closed_form_marginal", traps=(57,))
def noise_is_added_and_not_taken_from_the_direction(patch: Patch) -> None:
    def wrong(self, chain, predict, latent, index):
        _, _, a, b = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        return a * clean + b * noise

    patch.method(Ddim, "mean", wrong)


@mutant(
    f"{DENOISING}::test_trap_57_sde_and_ode_of_a_flow_end_alike_for_gaussian_data",
    f"{CHAINS}::test_flow_sde_step_by_hand",
    traps=(57,),
)
def no_score_correction(patch: Patch) -> None:
    def wrong(self, chain, predict, latent, index):
        _, s, _, after = chain.levels.at(index, latent)
        clean, noise = chain.decomposed(predict, latent, index)
        return latent + (after - s) * (noise - clean)

    patch.method(FlowSde, "mean", wrong)


@mutant(f"{DENOISING}::test_trap_57_the_last_step_without_noise_has_no_density_and_is_not_trained", traps=(57,))
def every_transition_is_trained(patch: Patch) -> None:
    patch.method(Trainable, "steps", lambda self, std: torch.tensor([False, *[True] * len(std)]))


@mutant(f"{DENOISING}::test_trap_57_half_precision_networks_have_single_precision_densities", traps=(57,))
def densities_in_half_precision(patch: Patch) -> None:
    patch.method(
        NoiseChain,
        "gaussian",
        lambda self, mean, std: Transition(mean, std.to(mean), self.density, self.density_min_std, self.noise_clip),
    )


@mutant(f"{CHAINS}::test_least_std_is_in_the_density_and_noise_can_be_clipped", traps=(57,))
def least_std_is_not_in_the_density(patch: Patch) -> None:
    patch.method(Transition, "density_std", property(lambda self: torch.where(self.std > 0, self.std, 1.0)))


@mutant(
    f"{DENOISING}::test_trap_58_the_log_ratio_is_biased_by_minus_half_the_squared_shift_and_centring_removes_it",
    f"{DENOISING}::test_trap_58_normalised_ratios_are_centred_and_reported_step_by_step",
    traps=(58,),
)
def ratios_are_not_centred(patch: Patch) -> None:
    kl = Transition.kl
    patch.method(Transition, "kl", lambda self, other: 0 * kl(self, other))


@mutant(f"{CHAINS}::test_branches_share_their_stem_and_it_is_not_trained")
def stems_are_trained(patch: Patch) -> None:
    def wrong(self, ctx, draw, judge):
        stem = ctx.extend(ctx.world.start(draw()), steps=self.stem if isinstance(self.stem, int) else 2)
        rows = stem[torch.arange(len(stem)).repeat_interleave(self.size)]
        return judge(ctx.extend(rows.with_rows({"stem": rows.lengths})))

    patch.method(Branched, "__call__", wrong)


# -- methods -------------------------------------------------------------------------------------------------------
@mutant("test_dance_grpo::test_best_and_worst_by_the_weighted_sum")
def the_best_rows_are_kept_and_not_the_worst(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        score, group = extremes.row_advantage(batch, self.weights), batch.row["group"]
        kept = [torch.where(group == g, score, -torch.inf).topk(self.keep).indices for g in group.unique()]
        return batch[torch.cat(kept).sort().values]

    patch.method(extremes.BestAndWorst, "__call__", wrong)


@mutant("test_dance_grpo::test_a_share_of_the_steps_is_trained_and_scored")
def the_same_steps_of_every_row(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        keep = (batch.trained.cumsum(1) <= (batch.trained.sum(1, keepdim=True) * self.share).floor()) & batch.trained
        return batch.with_steps({"train": keep})

    patch.method(steps.RandomSteps, "__call__", wrong)


@mutant("test_dance_grpo::test_heads_are_unchanged_by_the_scale_of_one_reward")
def rewards_are_added_before_they_are_standardised(patch: Patch) -> None:
    original = PerHead.__call__

    def wrong(self, ctx, batch):
        same = {f"reward:{name}": batch.step["reward"] for name in self.names}
        return original(self, ctx, batch.with_steps(same))

    patch.method(PerHead, "__call__", wrong)


@mutant("test_ddpo::test_the_history_of_a_prompt_outlives_the_round_and_forgets")
def the_history_never_forgets(patch: Patch) -> None:
    patch.function(history._last, lambda items, count: items)


@mutant("test_b2_diffurl::test_the_interval_grows_to_the_whole_chain")
def the_interval_grows_one_round_late(patch: Patch) -> None:
    original = BackwardProgress.interval
    patch.method(BackwardProgress, "interval", lambda self, done: original(self, max(done - 1, 0)))


@mutant("test_b2_diffurl::test_clear_best_and_worst_of_every_branch_group_are_kept")
def extremes_are_kept_in_doubt(patch: Patch) -> None:
    original = extremes.ClearExtremes.__call__
    patch.method(
        extremes.ClearExtremes, "__call__", lambda self, ctx, b: original(replaced(self, high=-9.0, low=-9.0), ctx, b)
    )


@mutant("test_dppo::test_at_the_old_policy_it_is_reinforce_of_the_chain")
def noisier_steps_are_not_discounted(patch: Patch) -> None:
    original = OverDenoising.__call__

    def wrong(self, ctx, batch):
        found = original(self, ctx, batch)
        return found.with_steps({"discount": torch.ones_like(found.step["discount"])})

    patch.method(OverDenoising, "__call__", wrong)


@mutant("test_dppo::test_rewards_and_values_are_the_environments", "test_dppo::test_one_denoising_step_is_gaussian_ppo")
def every_denoising_step_is_a_step_of_the_environment(patch: Patch) -> None:
    patch.function(denoising.chain_ends, lambda batch: batch.own)


@mutant("test_dppo::test_quantiles_come_before_the_discount")
def the_discount_comes_before_the_quantiles(patch: Patch) -> None:
    original = StandardisedAdvantages.plan

    def wrong(self, seen, batch):
        a = batch.step["advantage"] * batch.step["discount"]
        return original(self, seen, batch.with_steps({"advantage": a, "discount": torch.ones_like(a)}))

    patch.method(StandardisedAdvantages, "plan", wrong)


@mutant("test_find::test_samples_outside_the_range_have_no_gradient_for_either_sign", LOOPS)
def the_clamped_ratio_takes_the_minimum(patch: Patch) -> None:
    def wrong(self, seen, batch):
        ratio = surrogates.log_ratio(seen, batch).exp()
        return surrogates.clipped_surrogate(ratio, batch.step["advantage"], self.clip, self.clip)

    patch.method(ClampedSurrogate, "__call__", wrong)


@mutant("test_edit_r1_diffusion_nft::test_at_the_lagged_model_it_is_the_advantage_times_weighted_matching")
def bad_samples_are_learned_like_good_ones(patch: Patch) -> None:
    original = NegativeAware.both

    def wrong(self, seen):
        said, good, _ = original(self, seen)
        return said, good, good

    patch.method(NegativeAware, "both", wrong)


@mutant("test_seppo::test_the_reference_is_one_of_the_selves_that_were")
def the_reference_is_always_the_present_self(patch: Patch) -> None:
    def wrong(self, ctx):
        ctx[earlier.EARLIER] = [copy.deepcopy(ctx.models[self.of].state_dict())]
        ctx.models[self.model].load_state_dict(ctx[earlier.EARLIER][0])

    patch.method(earlier.EarlierSelf, "__call__", wrong)


@mutant("test_seppo::test_both_of_a_pair_are_noised_to_the_same_time_and_never_separated")
def each_of_a_pair_has_a_time_of_its_own(patch: Patch) -> None:
    patch.method(
        DenoisingPreference,
        "plan",
        lambda self, seen, batch: batch.with_rows(seen.noise("matching", self.points)),
    )


@mutant("test_dmospeech2_duration_grpo::test_a_flat_prompt_keeps_its_raw_reward_in_the_release_only")
def flat_groups_keep_their_reward(patch: Patch) -> None:
    original = FlatGroups.__call__
    patch.method(FlatGroups, "__call__", lambda self, ctx, batch: original(replaced(self, raw=True), ctx, batch))
