"""Planted bugs of squashed densities and of statistics of observations (traps 52 and 53)."""

import torch
from mutants import CONTROL_POLICIES, Patch, mutant

from policyopt.distributions import SquashedGaussian, tanh_log_slope
from policyopt.policies.continuous_heads import SquashedHead
from policyopt.policies.control import Actor
from policyopt.policies.normaliser import Normaliser
from policyopt.policies.perception import Eyes
from policyopt.update.normalise import UpdateNormaliser

T52, T53 = (f"{CONTROL_POLICIES}::test_trap_{trap}_" for trap in (52, 53))


# -- 52 ---------------------------------------------------------------------------------------------------------
@mutant(
    f"{T52}the_density_of_squashed_actions_integrates_to_one",
    f"{T52}sample_averages_need_the_determinant",
    traps=(52,),
)
def squashed_density_without_determinant(patch: Patch) -> None:
    patch.method(SquashedGaussian, "log_prob", lambda self, step: self.base.log_prob(step))


@mutant(f"{T52}the_density_of_squashed_actions_integrates_to_one", traps=(52,))
def determinant_has_the_wrong_sign(patch: Patch) -> None:
    patch.method(
        SquashedGaussian, "log_prob", lambda self, step: self.base.log_prob(step) + tanh_log_slope(step).sum(-1)
    )


@mutant(f"{T52}density_and_gradient_are_finite_at_the_edge", traps=(52,))
def determinant_from_the_rounded_action(patch: Patch) -> None:
    patch.function(tanh_log_slope, lambda u: torch.log(1 - torch.tanh(u) ** 2))


@mutant(f"{T52}density_and_gradient_are_finite_at_the_edge", traps=(52,))
def determinant_with_an_epsilon(patch: Patch) -> None:
    patch.function(tanh_log_slope, lambda u: torch.log(1 - torch.tanh(u) ** 2 + 1e-6))


@mutant(f"{T52}stored_samples_give_ratio_exactly_one", traps=(52,))
def actions_are_stored_instead_of_samples(patch: Patch) -> None:
    patch.method(Actor, "taken", lambda self, batch: self.receive(self.emit(batch.step["_action"])))
    patch.method(SquashedHead, "receive", lambda self, a, low, high: (2 * (a - low) / (high - low) - 1).atanh())


@mutant(f"{T52}clipped_actions_are_scored_before_the_clip", traps=(52,))
def clipped_actions_are_scored(patch: Patch) -> None:
    patch.method(Actor, "taken", lambda self, batch: self.emit(batch.step["_action"]))


# -- 53 ---------------------------------------------------------------------------------------------------------
@mutant(
    f"{T53}acting_scoring_and_training_leave_statistics_unchanged",
    f"{T53}the_first_updates_ratio_is_one_in_every_round",
    traps=(53,),
)
def statistics_move_when_read(patch: Patch) -> None:
    right = Normaliser.forward

    def wrong(self, x):
        self.update(x.reshape(-1, x.shape[-1]), torch.ones(x.reshape(-1, x.shape[-1]).shape[0], dtype=torch.bool))
        return right(self, x)

    patch.method(Normaliser, "forward", wrong)


@mutant(f"{T53}statistics_are_those_of_own_steps_of_all_rounds", traps=(53,))
def padding_enters_the_statistics(patch: Patch) -> None:
    def wrong(self, batch):
        self.normaliser.update(batch.step["_obs"], torch.ones_like(batch.own))

    patch.method(Eyes, "learn", wrong)


@mutant(f"{T53}statistics_are_those_of_own_steps_of_all_rounds", traps=(53,))
def statistics_are_the_last_rounds(patch: Patch) -> None:
    right = Normaliser.update

    def wrong(self, observations, mask):
        self.count.zero_()
        right(self, observations, mask)

    patch.method(Normaliser, "update", wrong)


@mutant(f"{T53}statistics_are_those_of_own_steps_of_all_rounds", traps=(53,))
def variances_are_averaged(patch: Patch) -> None:
    def wrong(self, observations, mask):
        new = observations[mask]
        total = self.count + len(new)
        self.mean.lerp_(new.mean(0), float(len(new) / total))
        self.variance.lerp_(new.var(0, correction=0), float(len(new) / total))
        self.count.copy_(total)

    patch.method(Normaliser, "update", wrong)


@mutant(f"{T53}saved_loaded_and_resumed_policies_act_the_same", traps=(53,))
def statistics_are_not_saved(patch: Patch) -> None:
    def wrong(self, size):
        torch.nn.Module.__init__(self)
        for name, value in (("mean", torch.zeros(size)), ("variance", torch.ones(size)), ("count", torch.zeros(()))):
            self.register_buffer(name, value.double(), persistent=False)

    patch.method(Normaliser, "__init__", wrong)
    patch.method(Normaliser, "follow", lambda self, other: None)


@mutant(f"{T53}critics_follow_and_frozen_copies_do_not", traps=(53,))
def statistics_are_shared_by_reference(patch: Patch) -> None:
    patch.monkeypatch.setattr(Normaliser, "__deepcopy__", lambda self, memo: self, raising=False)


@mutant(f"{T53}critics_follow_and_frozen_copies_do_not", traps=(53,))
def critics_keep_their_own_statistics(patch: Patch) -> None:
    patch.method(UpdateNormaliser, "__call__", lambda self, ctx, done: ctx.models[self.of].observe(done.judged))
