"""This library's side of the control benchmarks: PPO as the settings say."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
from control_settings import Setting

from policyopt.compose import Program, Stage
from policyopt.engines.control import ControlEngine
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.control import new_actor
from policyopt.reward.scaling import ScaledReward
from policyopt.run import Run
from policyopt.sampling.streams import Stream
from policyopt.update.normalise import UpdateNormaliser
from policyopt.update.optimizers import AdamW, Constant, Linear
from policyopt.worlds.gymnasium import EnvironmentWorld


def made(
    s: Setting, seed: int, rounds: int, execution: str = "recorded", *, as_cleanrl: bool = False
) -> tuple[Run, Program]:
    """A run of PPO and its program. as_cleanrl: as CleanRL's scripts do it: a learning rate that falls to 0, clipped
    values, and for continuous actions running statistics of observations and of the return's scale."""
    env = gymnasium.make(s.env)
    normalised = as_cleanrl and isinstance(env.action_space, gymnasium.spaces.Box)
    policy = new_actor(env.observation_space, env.action_space, normalise=normalised, seed=seed)
    world = EnvironmentWorld.make(s.env)
    world.emit, world.seed = policy.emit, seed
    method = override(
        load("ppo"),
        {
            "constraint.kl.weight": 0,
            "credit.gamma": s.gamma,
            "credit.lam": s.lam,
            "credit.whitened": False,  # over every minibatch instead, as the peers do
            "objective.policy.loss": {
                "part": "standardised_advantages",
                "discounted": False,
                "loss": {"part": "clipped_surrogate", "clip_low": s.clip, "clip_high": s.clip},
            },
            "update.epochs": s.epochs,
            "update.minibatches": s.batch // s.minibatch,
            "update.clip_norm": s.clip_norm,
            "update.clip_over": "all",
        },
    )
    adam = AdamW(s.learning_rate, epsilon=1e-5, schedule=Linear() if as_cleanrl else Constant())
    update = replace(method.update, unit="step", execution=execution, optimizers={"policy": adam, "critic": adam})
    method = replace(method, sampling=Stream(s.horizon, s.count), update=update)
    if normalised:
        method = replace(method, reward=ScaledReward(s.gamma), after=(UpdateNormaliser(also=("critic",)),))
    if as_cleanrl:
        method = override(method, {"objective.value.loss.clip": s.clip})
    return Run({"policy": policy}, world, ControlEngine(), seed), Program((Stage(method, rounds),))
