"""Traps of environments: 51, termination against truncation; 53, the statistics of reward scaling."""

import copy
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.utils import RunningMeanStd
from torch import nn

from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.control import ControlEngine, episodes
from policyopt.ops.streams import first_state, state_after
from policyopt.policies.control import new_actor
from policyopt.reward.scaling import REWARD_SCALE, ScaledReward
from policyopt.types import Finish, Round
from policyopt.worlds.gymnasium import EnvironmentWorld
from support import close, context, method

GAMMA, LIMIT = 0.9, 5


class Counting(gymnasium.Env):
    """Reward 1 a step; the observation counts the steps of the episode, 100 times the episode's number added. It goes
    on for ever, or terminates after `end` steps."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(2)

    def __init__(self, end=None):
        self.end, self.episode, self.count = end, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        self.count += 1
        return self._seen(), 1.0, self.count == self.end, False, {}

    def _seen(self):
        return np.array([100 * self.episode + self.count], dtype=np.float32)


@dataclass(frozen=True)
class Make:
    """An endless environment that a wrapper truncates after LIMIT steps, or one that ends after `end`."""

    end: int | None = None

    def __call__(self):
        return gymnasium.wrappers.TimeLimit(Counting(self.end), LIMIT)


class Perfect(nn.Module):
    """The value of always being paid 1: 10 with gamma 0.9, or what is left of an episode of `end` steps."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def value(self, batch):
        seen = torch.cat([batch.step["_obs"][..., 0], torch.zeros(len(batch), 1)], 1)
        last = batch.valid.sum(1, keepdim=True)
        seen = seen.scatter(1, last, batch.row["_obs"])  # (B, 1), the state after the last step
        left = torch.full_like(seen, torch.inf) if self.end is None else self.end - seen % 100
        return (1 - GAMMA**left) / (1 - GAMMA)


WORLDS = ["one by one", "worker processes", AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def world_of(kind, end):
    make = Make(end)
    if isinstance(kind, str):
        return EnvironmentWorld(make, processes=kind == "worker processes")
    return EnvironmentWorld(make, vector=lambda count: SyncVectorEnv([make] * count, autoreset_mode=kind))


@pytest.mark.parametrize("kind", WORLDS, ids=str)
@pytest.mark.parametrize("end", [None, 4])
def test_trap_51_truncation_bootstraps_from_the_final_observation(kind, end):
    value_targets_are_perfect(kind, end)


def test_trap_51_in_both_autoreset_modes_and_without():
    for kind in ("one by one", AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        value_targets_are_perfect(kind, None)
        value_targets_are_perfect(kind, 4)


def value_targets_are_perfect(kind, end):
    """Constant reward 1, gamma 0.9, limit 5, a perfect critic: the value target is 10 at every step where the limit
    ends the episode, and the discounted rest where it terminates, at every horizon and in every round."""
    world, critic = world_of(kind, end), Perfect(end)
    policy = new_actor(world.observation_space, world.action_space)
    world.acted_by(policy)
    ctx = context(method(), {"policy": policy, "critic": critic})
    credit = GeneralisedAdvantage(GAMMA, 0.7, whitened=False)
    length = LIMIT if end is None else end
    state, seen = first_state(0), []
    for horizon in (13, 7, 2):
        with torch.no_grad():
            batch = ControlEngine().stream(policy, world, state, horizon, torch.arange(3), 0)
        state = state_after(state, batch)
        seen.append(batch)
        credited = credit(ctx, batch)
        within = batch.step["_obs"][..., 0] % 100
        expected = (1 - GAMMA ** (torch.inf if end is None else end - within)) / (1 - GAMMA)
        close(credited.step["return"][batch.own], (expected + 0 * within)[batch.own], 1e-4)
        close(credited.step["advantage"][batch.own], torch.zeros(int(batch.own.sum())), 1e-4)
        over = batch.row["episode_length"] > 0
        assert (batch.row["episode_length"][over] == length).all()
        assert (batch.row["episode_return"][over] == length).all()
        stopped = batch.row["finish"] == Finish.STOPPED
        assert torch.equal(stopped, over if end else torch.zeros_like(over))
        # Rows never cross a reset, and end with what their last step led to.
        following = batch.following("_obs")[..., 0]
        assert (following - batch.step["_obs"][..., 0])[batch.own].eq(1).all()
    steps = torch.cat([batch.lengths for batch in seen]).sum()
    resets = 3 * (22 // (length + 1)) if kind is AutoresetMode.NEXT_STEP else 0
    assert int(steps) == 3 * 22 - resets


def test_a_vector_environment_is_not_resumed():
    world = world_of(AutoresetMode.SAME_STEP, None)
    policy = new_actor(world.observation_space, world.action_space)
    engine = ControlEngine()
    with torch.no_grad():
        first = engine.stream(policy, world, first_state(0), 8, torch.arange(2), 0)
        state = state_after(first_state(0), first)
        engine.stream(policy, world, state, 8, torch.arange(2), 0)
        for other in (world, world_of(AutoresetMode.SAME_STEP, None)):
            with pytest.raises(ValueError, match="without seeds"):
                engine.stream(policy, other, state, 8, torch.arange(2), 0)


def test_gymnasiums_own_vector_environments():
    """`make_vec`, in both modes: every episode of CartPole is as long as its return says."""
    for options in ({"autoreset": "NextStep"}, {"autoreset": "SameStep"}, {"vectorization": "vector_entry_point"}):
        world = EnvironmentWorld.make_vector("CartPole-v1", limit=30, **options)
        policy = new_actor(world.observation_space, world.action_space)
        world.acted_by(policy)
        with torch.no_grad():
            batch = ControlEngine().stream(policy, world, first_state(0), 100, torch.arange(4), 0)
        over = batch.row["episode_length"] > 0
        assert over.sum() > 8
        assert torch.equal(batch.row["episode_return"][over], batch.lengths[over].double())
        cut = batch.row["finish"] == Finish.TRUNCATED
        assert (batch.lengths[over & cut] == 30).all()
        angle = batch.row["_obs"][over & ~cut]
        assert ((angle[:, 0].abs() > 2.4) | (angle[:, 2].abs() > 0.2)).all()  # the final observation has fallen


# -- 53 ----------------------------------------------------------------------------------------------------------------
class VecNormalize:
    """Written from Stable-Baselines3's definition, step by step over environments side by side."""

    def __init__(self, count, gamma, epsilon, clip):
        self.returns, self.gamma, self.epsilon, self.clip = np.zeros(count), gamma, epsilon, clip
        self.rms = RunningMeanStd()

    def step(self, rewards, done):
        self.returns = self.returns * self.gamma + rewards
        self.rms.update(self.returns)
        scaled = np.clip(rewards / np.sqrt(self.rms.var + self.epsilon), -self.clip, self.clip)
        self.returns[done] = 0
        return scaled


def streamed(world, policy, state, horizon, keys):
    with torch.no_grad():
        batch = ControlEngine().stream(policy, world, state, horizon, keys, 0)
    return batch, state_after(state, batch)


def in_time(batch, column, count, horizon):
    """(H, N) from fragments."""
    found, at = np.full((horizon, count), np.nan), [0] * count
    for row in np.lexsort((batch.row["_before"], batch.row["_episode"])):
        slot, length = int(batch.row["_env"][row]), int(batch.lengths[row])
        found[at[slot] : at[slot] + length, slot] = column[row, :length]
        at[slot] += length
    return found


def test_trap_53_rewards_are_scaled_as_vecnormalize_does_across_rounds():
    world = EnvironmentWorld.make("Pendulum-v1", limit=10)  # every second round ends with an episode
    policy = new_actor(world.observation_space, world.action_space)
    part, count = ScaledReward(gamma=0.9, clip=5.0), 3
    world.acted_by(policy)
    ctx = context(method(), {"policy": policy}, world)
    reference, state = VecNormalize(count, 0.9, 1e-8, 5.0), first_state(0)
    for round_ in range(4):
        batch, state = streamed(world, policy, state, 25, torch.arange(count) + round_)
        scaled = part(ctx, batch)
        raw, found = (in_time(batch, b.step["reward"], count, 25) for b in (batch, scaled))
        ends = (batch.step["kind"] * 0).double()
        rows = (batch.row["episode_length"] > 0).nonzero()[:, 0]
        ends[rows, batch.lengths[rows] - 1] = 1
        done = in_time(batch, ends, count, 25).astype(bool)
        expected = np.stack([reference.step(r, d) for r, d in zip(raw, done, strict=True)])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        before = dict(ctx[REWARD_SCALE])
        assert torch.equal(part(ctx, batch).step["reward"], scaled.step["reward"])  # reading changes nothing
        assert ctx[REWARD_SCALE]["count"] == before["count"]
        part.after(ctx, Round(scaled, scaled, scaled, {}))
        cell = ctx[REWARD_SCALE]
        np.testing.assert_allclose(
            [cell["mean"], cell["variance"], cell["count"]],
            [reference.rms.mean, reference.rms.var, reference.rms.count],
            rtol=1e-6,
        )
        np.testing.assert_allclose(cell["sums"], reference.returns, rtol=1e-6)


def test_trap_53_equals_gymnasiums_wrapper_until_an_episode_ends():
    world = EnvironmentWorld.make("Pendulum-v1", limit=1000)
    policy = new_actor(world.observation_space, world.action_space)
    world.acted_by(policy)
    ctx = context(method(), {"policy": policy}, world)
    batch, _ = streamed(world, policy, first_state(0), 200, torch.arange(1))
    found = ScaledReward(gamma=0.95, clip=None)(ctx, batch).step["reward"][0]
    env = gymnasium.wrappers.NormalizeReward(gymnasium.make("Pendulum-v1", max_episode_steps=1000), gamma=0.95)
    env.reset(seed=int(batch.row["_seed"][0]))
    expected = [env.step(world.sent(step[None])[0])[1] for step in batch.step["_action"][0]]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4)


def test_trap_53_statistics_survive_a_checkpoint_and_an_evaluation():
    """Save, load, evaluate: the same numbers; whole episodes count as environments of their own."""
    world = EnvironmentWorld.make("Pendulum-v1", limit=20)
    policy = new_actor(world.observation_space, world.action_space)
    world.acted_by(policy)
    part = ScaledReward(gamma=0.9)
    ctx = context(method(), {"policy": policy}, world)
    batch, state = streamed(world, policy, first_state(0), 30, torch.arange(2))
    scaled = part(ctx, batch)
    part.after(ctx, Round(scaled, scaled, scaled, {}))
    cell = copy.deepcopy(ctx[REWARD_SCALE])
    episodes(policy, world, 5, seed=1, greedy=True)
    with torch.no_grad():
        rows = ControlEngine()(policy, world, world.start(world.tasks(torch.arange(3))), torch.arange(3), 1.0, 0)
    assert all(torch.equal(torch.as_tensor(ctx[REWARD_SCALE][name]), torch.as_tensor(cell[name])) for name in cell)
    other = context(method(), {"policy": policy}, world)
    other[REWARD_SCALE] = cell
    following, _ = streamed(world, policy, state, 30, torch.arange(2))
    for seen in (rows, following):
        assert torch.equal(part(ctx, seen).step["reward"], part(other, seen).step["reward"])
    sums = np.zeros(3)
    rms = RunningMeanStd()
    rms.mean, rms.var, rms.count = cell["mean"], cell["variance"], cell["count"]
    for t in range(20):
        sums = 0.9 * sums + rows.step["reward"][:, t].double().numpy()
        rms.update(sums)
        expected = rows.step["reward"][:, t].double().numpy() / np.sqrt(rms.var + 1e-8)
        np.testing.assert_allclose(part(ctx, rows).step["reward"][:, t], expected, rtol=1e-5)
