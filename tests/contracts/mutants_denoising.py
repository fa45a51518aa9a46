"""Planted bugs of denoising chains (traps 56 to 58)."""

import torch
from mutants import DENOISING, Patch, mutant

from policyopt.policies.chains import Ddim, FlowSde, NoiseChain
from policyopt.policies.denoising import Denoiser, Guidance
from policyopt.policies.transitions import Averaged, Transition
from policyopt.sampling.branches import Branched
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
