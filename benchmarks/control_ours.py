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
from policyopt.run import Run
from policyopt.sampling.streams import Stream
from policyopt.update.optimizers import AdamW
from policyopt.worlds.gymnasium import EnvironmentWorld


def made(s: Setting, seed: int, rounds: int, execution: str = "recorded") -> tuple[Run, Program]:
    """A run of PPO and its program."""
    env = gymnasium.make(s.env)
    policy = new_actor(env.observation_space, env.action_space, seed=seed)
    world = EnvironmentWorld.make(s.env)
    world.emit, world.seed = policy.emit, seed
    method = override(
        load("ppo"),
        {
            "constraint.kl.weight": 0,
            "credit.gamma": s.gamma,
            "credit.lam": s.lam,
            "objective.policy.loss.clip_low": s.clip,
            "objective.policy.loss.clip_high": s.clip,
            "update.epochs": s.epochs,
            "update.minibatches": s.batch // s.minibatch,
            "update.clip_norm": s.clip_norm,
        },
    )
    adam = AdamW(s.learning_rate, epsilon=1e-5)
    update = replace(method.update, unit="step", execution=execution, optimizers={"policy": adam, "critic": adam})
    method = replace(method, sampling=Stream(s.horizon, s.count), update=update)
    return Run({"policy": policy}, world, ControlEngine(), seed), Program((Stage(method, rounds),))
