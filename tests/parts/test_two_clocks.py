"""Environment steps made of denoising steps, the disc world, and samples drawn by code."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from policyopt.compose import Program, Stage
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.plain import generate
from policyopt.methods.ppo import ppo
from policyopt.ops.random import new_keys
from policyopt.policies.chains import FlowSde, NoiseChain, PredictsVelocity, diffusion, flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.paths import RectifiedFlow
from policyopt.policies.transitions import ClampedAverage
from policyopt.run import Run
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Finish
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds import drawings
from policyopt.worlds.denoising import Trainable
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.points import RoundDisc
from policyopt.worlds.two_clocks import TwoClockWorld, within
from support import close


class Aimed(nn.Module):
    """A flow whose samples are a fixed function of the observation: velocity (z - target) / s ends at the target."""

    conditions = Conditions(features=2)

    def __init__(self, target, dims=2):
        super().__init__()
        self.target, self.dims = target, dims

    def forward(self, latent, time, condition=None):
        return (latent - self.target(condition)) / time[:, None]


def right(obs):
    """Up while left of the disc, then to the right."""
    return torch.where(obs[:, :1] < -0.2, torch.tensor([[0.5, 1.0]]), torch.tensor([[1.0, -0.2]]))


def rolled(policy, world, count=4, seed=0, steps=None, batch=None):
    batch = world.start(world.tasks(torch.arange(count))) if batch is None else batch
    return generate(policy, world, batch, new_keys(len(batch), torch.Generator().manual_seed(seed)), 1.0, 0, steps)


def stepped(env, action_of, count):
    """The same episodes by the inner world alone: rewards (B, E)."""
    batch = env.start(env.tasks(torch.arange(count)))
    while not batch.done.all():
        batch = env.append(batch, action_of(batch.row["_obs"]), torch.zeros(count), ~batch.done, 0)
    return batch


def test_environment_moves_when_a_chain_is_finished():
    env = RoundDisc()
    policy = Denoiser(Aimed(right), flow(3, eta=0.0), condition="_obs")
    world = TwoClockWorld(env, policy.chain.std, 2)
    batch, alone = rolled(policy, world), stepped(env, right, 4)
    inner = world.seen_by_environment(batch)
    close(inner.step["_action"], alone.step["_action"], 1e-5)
    close(inner.step["_obs"], alone.step["_obs"], 1e-5)
    close(inner.step["reward"], alone.step["reward"], 1e-5)
    assert torch.equal(inner.step["kind"], alone.step["kind"])
    assert torch.equal(batch.row["finish"], alone.row["finish"])
    close(batch.row["_obs"], alone.row["_obs"], 1e-5)
    own = batch.own
    assert batch.lengths.tolist() == (alone.lengths * 4).tolist()
    first = batch.step["clock_denoise"][0, : int(batch.lengths[0])]
    assert first.tolist() == [0, 1, 2, 3] * int(alone.lengths[0])
    assert batch.step["clock_environment"][0, : len(first)].tolist() == [
        e for e in range(int(alone.lengths[0])) for _ in range(4)
    ]
    # Rewards sit on the last step of a chain; every step of a chain sees the observation before it.
    assert not batch.step["reward"][own & (batch.step["clock_denoise"] < 3)].any()
    assert (batch.step["_obs"][:, 0] == batch.step["_obs"][:, 3]).all()
    assert (batch.following("_obs")[:, 3] != batch.step["_obs"][:, 3]).any()
    assert set(batch.row["finish"].tolist()) <= {int(Finish.STOPPED), int(Finish.TRUNCATED)}


def test_chunks_of_actions():
    env = RoundDisc(limit=7)

    def both(obs):
        return torch.cat([right(obs), torch.tensor([[0.3, 0.0]]).expand(len(obs), 2)], 1)

    policy = Denoiser(Aimed(both, dims=4), flow(2, eta=0.0), condition="_obs")
    world = TwoClockWorld(env, policy.chain.std, 4, chunk=2)
    batch = rolled(policy, world, 3)
    taken = []

    def alternate(obs):
        # The observation of a chunk is that before its first action.
        if len(taken) % 2 == 0:
            taken.append(both(obs))
            return taken[-1][:, :2]
        taken.append(None)
        return taken[-2][:, 2:]

    alone = stepped(env, alternate, 3)
    assert alone.lengths.tolist() == [7, 7, 7]
    assert batch.lengths.tolist() == [4 * 3] * 3  # the last chunk is cut short
    close(batch.step["reward"].sum(1), alone.step["reward"].sum(1), 1e-5)
    close(batch.row["_obs"], alone.row["_obs"], 1e-5)
    assert (batch.row["finish"] == Finish.TRUNCATED).all()
    with pytest.raises(ValueError, match="does not hold 3 actions"):
        TwoClockWorld(env, policy.chain.std, 4, chunk=3)


def test_gymnasium_with_two_clocks():
    """Pendulum acted in by chains: equal to the environment itself; branches go on from their own history."""
    network = VectorDenoiser(1, Conditions(features=3), width=8)
    policy = Denoiser(network, flow(2, eta=0.5), condition="_obs")
    env = EnvironmentWorld.make("Pendulum-v1", within(-2.0, 2.0), limit=5)
    world = TwoClockWorld(env, policy.chain.std, 1)
    batch = rolled(policy, world, 3)
    assert batch.lengths.tolist() == [15] * 3
    assert batch.row["episode_length"].tolist() == [5] * 3
    close(batch.row["episode_return"], world.grade(batch).sum(1), 1e-4)
    single = env.build()
    obs, _ = single.reset(seed=int(batch.row["_seed"][1]))
    inner = world.seen_by_environment(batch)
    for step in range(5):
        close(inner.step["_obs"][1, step], obs, 1e-5)
        obs, reward, *_ = single.step(within(-2.0, 2.0)(inner.step["_action"][1, step]).numpy())
        close(inner.step["reward"][1, step], float(reward), 1e-4)
    stem = rolled(policy, world, 2, steps=7)
    rows = rolled(policy, world, batch=stem[torch.tensor([0, 0, 1, 1])], seed=3)
    assert torch.equal(rows.step["_obs"][0, :9], rows.step["_obs"][1, :9])
    assert not torch.equal(rows.step["_next"][0, 7], rows.step["_next"][1, 7])


def test_gymnasium_in_chunks_is_rebuilt_from_its_actions():
    """An environment that is gone is reset and takes the row's actions again, chunk by chunk."""
    policy = Denoiser(VectorDenoiser(2, Conditions(features=3), width=8), flow(2, eta=0.5), condition="_obs")
    first, second = (
        TwoClockWorld(EnvironmentWorld.make("Pendulum-v1", within(-2.0, 2.0), limit=8), policy.chain.std, 2, chunk=2)
        for _ in range(2)
    )
    half = rolled(policy, first, 2, steps=7)
    here, there = (rolled(policy, world, batch=half, seed=1) for world in (first, second))
    assert here.done.all()
    assert torch.equal(here.step["reward"], there.step["reward"])
    assert torch.equal(here.row["_obs"], there.row["_obs"])


def test_within_maps_samples_to_actions():
    close(within(-2.0, 4.0)(torch.tensor([-3.0, -1.0, 0.0, 1.0])), [-2.0, -2.0, 1.0, 4.0])


def test_critic_and_credit_see_observations():
    chain = diffusion(3, min_std=0.1, density=ClampedAverage())
    policy = Denoiser(VectorDenoiser(2, Conditions(features=2), width=8, time_scale=3), chain, condition="_obs")
    world = TwoClockWorld(RoundDisc(limit=3), chain.std, 2, trainable=Trainable(last=2))
    batch = rolled(policy, world)
    assert batch.trained[0].tolist() == [False, False, True, True] * 3
    value = policy.make_critic(torch.Generator().manual_seed(0)).value(batch)
    assert value.shape == (4, 13)
    assert torch.equal(value[:, 0], value[:, 3])
    assert not torch.equal(value[:, 3], value[:, 4])
    change = policy.score(batch).logp - batch.step["behaviour"]
    close(change[batch.trained], torch.zeros(24), 1e-5)


def test_ppo_as_it_is_moves_a_diffusion_policy():
    """No part of ppo knows that its actions are chains: a return that needs walking right rises."""
    chain = NoiseChain(RectifiedFlow(2), FlowSde(0.5, noisy_end=True), PredictsVelocity())
    policy = Denoiser(VectorDenoiser(2, Conditions(features=2), width=16), chain, condition="_obs")
    world = TwoClockWorld(RoundDisc(limit=2, radius=0.1), chain.std, 2)
    method = replace(
        ppo,
        selection=Selection(count=64),
        credit=GeneralisedAdvantage(gamma=0.999, lam=0.95),
        constraint=(),
        roles={"old": ppo.roles["old"]},
        models={"critic": ppo.models["critic"]},
        update=GradientSteps({"policy": AdamW(0.01), "critic": AdamW(0.03)}, epochs=4, minibatches=2),
    )
    run = Run({"policy": policy}, world, generate)
    found = [done.metrics["reward"] for done in rounds(run, Program((Stage(method, 12),)))]
    assert sum(found[-4:]) / 4 > sum(found[:4]) / 4 + 0.4


def test_disc_by_hand():
    env = RoundDisc()
    place, hit = env.moved(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
    # The first would stand at (-0.6, 0), inside the disc of radius 0.7: it is put on the rim.
    close(place, [[-0.7, 0.0], [0.0, 1.4]], 1e-6)
    assert hit.tolist() == [True, False]
    batch = env.start(env.tasks(torch.tensor([3])))
    batch = batch.with_rows({"_obs": torch.tensor([[1.4, 0.0]])})
    after = env.append(batch, torch.tensor([[1.0, 0.0]]), torch.zeros(1), torch.tensor([True]), 0)
    close(after.step["reward"], [[0.0]], 1e-6)
    assert after.row["finish"].tolist() == [int(Finish.STOPPED)]
    seen, taken = env.demonstrations(50, torch.Generator().manual_seed(0))
    assert seen.shape == taken.shape == (50 * 32, 2)
    assert taken.abs().max() <= 1


def test_sides_of_the_disc():
    policy = Denoiser(Aimed(right), flow(2, eta=0.0), condition="_obs")
    world = TwoClockWorld(RoundDisc(), policy.chain.std, 2)
    assert RoundDisc.sides(world.seen_by_environment(rolled(policy, world))).tolist() == [1.0] * 4


# -- samples drawn by code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [drawings.eight_gaussians, drawings.two_moons, drawings.checkerboard])
def test_clouds_of_points(make):
    points, mode = make(2000, torch.Generator().manual_seed(0))
    again, _ = make(2000, torch.Generator().manual_seed(0))
    assert torch.equal(points, again)
    assert points.shape == (2000, 2)
    assert mode.shape == (2000,)
    assert points.abs().max() < 3
    shares = mode.bincount() / 2000
    assert shares[shares > 0].min() > 0.08


def test_rewards_of_points():
    centres = drawings.ring_centres()
    points, task = centres[[0, 1]] + torch.tensor([[0.3, 0.0], [0.0, 0.0]]), torch.zeros(2)
    mode, distance = drawings.nearest_mode(points, centres)
    assert mode.tolist() == [0, 1]
    close(distance, [0.3, 0.0], 1e-6)
    close(drawings.near_mode(0, centres, 2.0)(points, task)[0], math.exp(-0.18), 1e-6)
    assert drawings.on_mode(0, centres)(points, task).tolist() == [1.0, 0.0]


def test_images_and_their_measures():
    images, kind = drawings.draw_shapes(40, 16, torch.Generator().manual_seed(0))
    assert images.shape == (40, 3, 16, 16)
    assert set(kind.tolist()) == {0, 1, 2}
    assert images.min() == -1
    assert images.max() <= 1
    count = drawings.blobs(images)
    assert count.min() >= 1
    assert count.max() <= 2
    assert drawings.compressed_size(images).max() < drawings.compressed_size(torch.rand(1, 3, 16, 16) * 2 - 1).min()
    assert (drawings.jpeg_size(images) > 0).all()


def test_measures_by_hand():
    image = -torch.ones(2, 3, 6, 6)
    image[0, 0, 1, 1] = image[0, 0, 1, 2] = image[0, 1, 2, 2] = 1.0  # one region of three pixels
    image[0, 2, 5, 0] = 1.0  # touches none
    assert drawings.blobs(image).tolist() == [2.0, 0.0]
    close(drawings.symmetry(image)[1], 0.0)
    # Every entry that differs from its mirror image differs by 2; there are 108 entries.
    differ = float((image[0] != image[0].flip(-1)).sum()) * 2 / 108
    close(drawings.symmetry(image)[0], -differ, 1e-6)
    close(drawings.colour_share(image, (1.0, -1.0, -1.0))[0], 2 / 36, 1e-6)
    assert drawings.as_bytes(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist() == [0, 0, 128, 255]
    reward = drawings.of_images(drawings.symmetry, (3, 6, 6), sign=-1.0)
    close(reward(image.flatten(1), torch.zeros(2)), -drawings.symmetry(image))
