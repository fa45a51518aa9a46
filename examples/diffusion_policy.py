"""A diffusion policy for Pendulum: cloned from poor demonstrations, then tuned by DPPO.

The demonstrator swings up by pushing with the motion and catches the pendulum badly, and half of its torques are noise.
A sample of the policy is a chunk of four torques, drawn in five denoising steps of which the last three are tuned.

    python examples/diffusion_policy.py [rounds] [seed]

Measured (40 rounds of 24 episodes; mean returns of 32 episodes): demonstrations -664, clone -815, tuned -179 with seed
0; -638, -780, -192 with seed 1. A few minutes on one core.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import torch
from torch import Tensor

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.methods.flow_matching import flow_matching
from policyopt.ops.random import generator, new_keys
from policyopt.options import override
from policyopt.policies.chains import diffusion
from policyopt.policies.denoisers import Conditions, VectorDenoiser, partly_frozen
from policyopt.policies.denoising import Denoiser
from policyopt.policies.transitions import ClampedAverage
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.denoising import DenoisingWorld, Trainable
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.two_clocks import TwoClockWorld, within

CHUNK, STEPS, TUNED = 4, 5, 3
SCALE = 0.1  # of rewards, so that the critic's targets are of order 10


def torque(obs: np.ndarray, rng: np.random.Generator) -> float:
    """The demonstrator: energy of the swing near the bottom, a soft spring near the top, noise in half of the cases."""
    cos, sin, speed = obs
    if rng.random() < 0.5:
        return float(rng.uniform(-2, 2))
    if cos > 0.8:
        return float(np.clip(-6 * np.arctan2(sin, cos) - speed, -2, 2))
    energy = speed**2 / 6 + 5 * (cos - 1)
    return float(np.clip(-2 * np.sign(speed * energy), -2, 2))


def demonstrations(episodes: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Observations, chunks of torques in -1..1 and the mean return."""
    env, rng = gymnasium.make("Pendulum-v1"), np.random.default_rng(seed)
    seen, taken, returns = [], [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=10_000 * (seed + 1) + episode)
        states, torques, total = [], [], 0.0
        for _ in range(200):
            states.append(obs)
            torques.append(torque(obs, rng))
            obs, reward, *_ = env.step(np.array([torques[-1]], dtype=np.float32))
            total += float(reward)
        for first in range(200 - CHUNK):
            seen.append(states[first])
            taken.append(torques[first : first + CHUNK])
        returns.append(total)
    return torch.tensor(np.array(seen)), torch.tensor(taken) / 2, float(np.mean(returns))


def scaled(env: gymnasium.Env) -> gymnasium.Env:
    return gymnasium.wrappers.TransformReward(env, lambda reward: SCALE * float(reward))


def main(count: int = 40, seed: int = 0, *, episodes: int = 40, cloning: int = 1000) -> tuple[float, float, float]:
    """Mean returns: of the demonstrations, of the clone, after tuning."""
    seen, taken, shown = demonstrations(episodes, seed)
    print(f"demonstrations: {shown:.0f}", flush=True)
    chain = diffusion(STEPS, density=ClampedAverage(), min_std=0.1, noise_clip=3.0, clip_clean=1.0)
    network = VectorDenoiser(CHUNK, Conditions(features=3), width=64, time_scale=STEPS, seed=seed)
    data = DenoisingWorld(chain.std, CHUNK, len(seen), conditions=seen, samples=taken)
    clone = Run({"policy": Denoiser(network, chain)}, data, generate, seed)
    for _ in rounds(clone, Program((Stage(flow_matching, cloning),))):
        pass

    policy = Denoiser(partly_frozen(network, chain.levels.time, TUNED), chain, condition="_obs")
    env = EnvironmentWorld.make("Pendulum-v1", within(-2.0, 2.0), seed=seed, wrappers=(scaled,))
    world = TwoClockWorld(env, chain.std, CHUNK, CHUNK, Trainable(last=TUNED))

    def measured() -> float:
        ids = torch.arange(32) + 2**19
        keys = new_keys(32, generator("test", seed))
        batch = generate(policy, world, world.start(world.tasks(ids)), keys, 1.0, 0)
        return float(world.grade(batch).sum(1).mean()) / SCALE

    clip = {"part": "clip_by_noise", "least": 0.05, "most": 0.1, "count": TUNED, "end": STEPS}
    method = override(
        load("dppo"),
        {
            "selection.count": 24,
            "credit.inner.gamma": 0.95,
            "objective.clip_low": clip,
            "objective.clip_high": clip,
            "update.optimizers.policy.learning_rate": 1e-3,
            "update.optimizers.critic.learning_rate": 3e-3,
        },
    )
    before = measured()
    print(f"clone: {before:.0f}", flush=True)
    for done in rounds(Run({"policy": policy}, world, generate, seed), Program((Stage(method, count),))):
        if "reward" in done.metrics:
            print(f"  {done.metrics['reward'] / SCALE:.0f}", end="", flush=True)
    after = measured()
    print(f"\ntuned: {after:.0f}")
    return shown, before, after


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
