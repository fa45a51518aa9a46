"""Planted bugs of environments and of reward scaling (traps 51 and 53)."""

import numpy as np
import torch
from mutants import CONTROL_WORLDS, Patch, mutant

from policyopt.engines.fragments import Trace
from policyopt.reward.scaling import REWARD_SCALE, ScaledReward
from policyopt.worlds.environment_slots import Local, Vectored

TARGETS = f"{CONTROL_WORLDS}::test_trap_51_in_both_autoreset_modes_and_without"
SCALES = f"{CONTROL_WORLDS}::test_trap_53_rewards_are_scaled_as_vecnormalize_does_across_rounds"
KEPT = f"{CONTROL_WORLDS}::test_trap_53_statistics_survive_a_checkpoint_and_an_evaluation"


# -- 51 ----------------------------------------------------------------------------------------------------------------
@mutant(TARGETS, traps=(51,))
def a_limit_terminates(patch: Patch) -> None:
    for slots in (Local, Vectored):
        step = slots.step

        def wrong(self, actions, out, step=step):
            reward, terminated, truncated = step(self, actions, out)
            return reward, terminated | truncated, truncated

        patch.method(slots, "step", wrong)


@mutant(TARGETS, traps=(51,))
def bootstraps_from_the_observation_after_the_reset(patch: Patch) -> None:
    def wrong(self, t, slots, now, memory):
        self.ended[t, slots] = True
        self.final.update({(t, slot): now[slot] for slot in slots})  # a view: the reset overwrites it

    patch.method(Trace, "end", wrong)


@mutant(TARGETS, traps=(51,))
def reset_rows_are_transitions(patch: Patch) -> None:
    patch.method(Vectored, "waiting", lambda self: np.zeros(self.count, dtype=bool))


@mutant(TARGETS, traps=(51,))
def termination_bootstraps(patch: Patch) -> None:
    rows = Trace._rows

    def wrong(self, at, ended, seed):
        self.terminated[:] = False
        return rows(self, at, ended, seed)

    patch.method(Trace, "_rows", wrong)


# -- 53 ----------------------------------------------------------------------------------------------------------------
@mutant(SCALES, traps=(53,))
def statistics_are_not_kept(patch: Patch) -> None:
    patch.method(ScaledReward, "after", lambda self, ctx, done: None)


@mutant(SCALES, traps=(53,))
def sums_begin_again_every_round(patch: Patch) -> None:
    after = ScaledReward.after

    def wrong(self, ctx, done):
        after(self, ctx, done)
        ctx[REWARD_SCALE] = {**ctx[REWARD_SCALE], "sums": torch.zeros(0)}

    patch.method(ScaledReward, "after", wrong)


@mutant(SCALES, KEPT, traps=(53,))
def asking_for_a_reward_moves_the_statistics(patch: Patch) -> None:
    call = ScaledReward.__call__

    def wrong(self, ctx, batch):
        scaled = call(self, ctx, batch)
        ctx[REWARD_SCALE] = {**ctx[REWARD_SCALE], "variance": 2 * ctx[REWARD_SCALE]["variance"]}
        return scaled

    patch.method(ScaledReward, "__call__", wrong)
