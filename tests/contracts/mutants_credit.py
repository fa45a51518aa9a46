"""Planted bugs of returns, advantages and single methods (trap 54 and the identities)."""

import torch
from mutants import (
    LOOPS,
    RETURNS,
    SEQUENCES,
    Patch,
    mutant,
)

from policyopt.credit import returns
from policyopt.credit.groups import GroupCentred, LeaveOneOut
from policyopt.objective import surrogates
from policyopt.objective.value import SquaredValueError
from policyopt.ops import groups, masked, sequences
from policyopt.reward.parts import OverlongPenalty, ReferencePenalty, overlong_penalty
from policyopt.sampling.samplers import DynamicSampling
from policyopt.types import Finish
from policyopt.update import gradient
from policyopt.update.averaging import SequenceSum


# -- 54 and credit ----------------------------------------------------------------------------------------------
@mutant(
    f"{RETURNS}::test_trap_54_gae_closed_forms",
    "test_ppo::test_lambda_one_is_monte_carlo_and_zero_is_one_step",
    traps=(54,),
)
def value_index_off_by_one(patch: Patch) -> None:
    original = sequences.generalised_advantage
    patch.function(original, lambda r, v, after, m, gamma, lam: original(r, v.roll(1, 1), after, m, gamma, lam))


@mutant("test_recordings::test_trap_51_recorded_transitions_are_credited_with_what_follows", traps=(51,))
def rows_that_go_on_are_worth_nothing_after_their_last_step(patch: Patch) -> None:
    right = returns.GeneralisedAdvantage.beyond

    def wrong(self, batch, values):
        return torch.where(batch.row["finish"] == Finish.RUNNING, 0.0, right(self, batch, values))

    patch.method(returns.GeneralisedAdvantage, "beyond", wrong)


@mutant("test_credit::test_equal_rewards_are_worth_exactly_nothing")
def equal_rewards_differ_from_their_rounded_mean(patch: Patch) -> None:
    def wrong(x, ids, valid):
        return torch.where(valid, x - groups.group_mean(x, ids, valid), 0.0)

    patch.function(groups.group_centred, wrong)


@mutant(f"{RETURNS}::test_trap_54_gae_closed_forms", traps=(54,))
def trace_decays_by_lambda_alone(patch: Patch) -> None:
    def wrong(r, v, after, m, gamma, lam):
        following = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], 1)
        last = m & ~torch.cat([m[:, 1:], torch.zeros_like(m[:, :1])], 1)
        following = torch.where(last, after[:, None], following)
        delta = masked.select(m, r + gamma * following - v)
        return masked.select(m, sequences.to_go(delta, lam))

    patch.function(sequences.generalised_advantage, wrong)


@mutant(f"{RETURNS}::test_trap_54_gae_closed_forms", traps=(54,))
def row_ends_at_the_padded_width(patch: Patch) -> None:
    """The value after the last step of a short row is read from padding."""

    def wrong(r, v, after, m, gamma, lam):
        following = torch.cat([v[:, 1:], after[:, None]], 1)
        return masked.select(m, sequences.to_go(masked.select(m, r + gamma * following - v), gamma * lam))

    patch.function(sequences.generalised_advantage, wrong)


@mutant(
    f"{RETURNS}::test_whitened_advantages_leave_returns_alone",
    "test_ppo::test_advantages_are_whitened_over_the_round",
)
def advantages_not_whitened(patch: Patch) -> None:
    patch.function(masked.whiten, lambda x, mask, total=None, epsilon=1e-8: x)


@mutant(LOOPS)
def value_clip_takes_the_smaller_error(patch: Patch) -> None:
    def wrong(self, seen, batch):
        value, target = seen.value(self.critic), batch.step["return"]
        old = batch.step["value"]
        if self.clip is None:
            return 0.5 * (value - target) ** 2
        near = old + (value - old).clamp(-self.clip, self.clip)
        return 0.5 * torch.minimum((value - target) ** 2, (near - target) ** 2)

    patch.method(SquaredValueError, "__call__", wrong)


@mutant("test_rloo::test_unbiased_pairs", "test_rloo::test_two_samples_are_each_others_baseline")
def own_reward_in_the_baseline(patch: Patch) -> None:
    patch.method(LeaveOneOut, "__call__", GroupCentred.__call__)


@mutant("test_rloo::test_the_penalty_is_part_of_the_reward")
def penalty_of_the_wrong_sign(patch: Patch) -> None:
    call = ReferencePenalty.__call__
    patch.method(ReferencePenalty, "__call__", lambda self, c, b: call(ReferencePenalty(-self.beta), c, b))


@mutant("test_reinforce::test_expected_gradient_with_rewards_on_the_way")
def rewards_of_the_past_instead_of_to_go(patch: Patch) -> None:
    def wrong(x, discount=1.0):
        return x.cumsum(1)

    patch.function(sequences.to_go, wrong)


@mutant("test_reinforce::test_the_baseline_is_the_corrected_average_of_earlier_rounds")
def baseline_pulled_towards_zero(patch: Patch) -> None:
    def wrong(self, ctx, done):
        old = ctx[returns.BASELINE]
        rows = done.credited
        mean = float(rows.step["return"][rows.own].mean())
        ctx[returns.BASELINE] = {
            "mean": self.decay * old["mean"] + (1 - self.decay) * mean,
            "rounds": old["rounds"] + 1,
        }

    patch.method(returns.UpdateBaseline, "__call__", wrong)


@mutant("test_dapo::test_dapo_punishes_long_rows_softly")
def length_penalty_begins_at_the_limit(patch: Patch) -> None:
    patch.function(overlong_penalty, lambda length, limit, buffer: ((limit - length) / buffer).clamp(min=-1.0, max=0.0))


@mutant("test_dapo::test_dapo_trains_on_mixed_groups_only")
def dynamic_sampling_keeps_equal_groups(patch: Patch) -> None:
    patch.function(groups.informative, lambda x, ids, valid, tolerance=0.0: torch.ones_like(valid))


@mutant("test_dapo::test_dapo_gradient_is_a_token_mean_with_two_clips")
def upper_clip_as_low_as_the_lower(patch: Patch) -> None:
    original = surrogates.clipped_surrogate
    patch.function(original, lambda r, a, low, high: original(r, a, low, low))


@mutant("test_dr_grpo::test_dr_grpo_first_gradient")
def configured_constant_ignored(patch: Patch) -> None:
    call = SequenceSum.__call__
    patch.method(SequenceSum, "__call__", lambda self, m, b, t: call(SequenceSum(), m, b, t))


@mutant("test_sft::test_every_trained_token_weighs_the_same")
def likelihood_of_untrained_steps(patch: Patch) -> None:
    patch.monkeypatch.setattr(gradient, "select", lambda mask, x: x)
    original = gradient.plan

    def wrong(ctx, batch, terms):
        everything = batch.with_steps({"train": torch.ones_like(batch.step["train"])})
        return original(ctx, everything, terms)

    patch.function(original, wrong)


@mutant("test_dapo::test_dapo_trains_on_mixed_groups_only")
def dynamic_sampling_never_gives_up(patch: Patch) -> None:
    """Ends here after a few draws more, so that the test ends."""
    call = DynamicSampling.__call__
    patch.method(
        DynamicSampling,
        "__call__",
        lambda self, c, d, j: call(DynamicSampling(self.size, self.temperature, 9), c, d, j),
    )


@mutant(f"{SEQUENCES}::test_trap_34_observations_are_no_length_and_no_kl")
def length_penalty_on_the_padded_width(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        width = torch.full((len(batch),), float(batch.steps))
        penalty = overlong_penalty(width, self.limit, self.buffer)
        return batch.with_steps({"reward": batch.step["reward"] + sequences.on_last(batch, penalty)})

    patch.method(OverlongPenalty, "__call__", wrong)
