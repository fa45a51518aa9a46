"""Stable-Baselines3's side of the control benchmarks: PPO as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def made(s: Mapping[str, Any], seed: int) -> PPO:
    """s: the fields of `control_settings.Setting`."""
    return PPO(
        "MlpPolicy",
        make_vec_env(s["env"], s["count"], seed=seed),
        n_steps=s["horizon"],
        batch_size=s["minibatch"],
        n_epochs=s["epochs"],
        learning_rate=s["learning_rate"],
        gamma=s["gamma"],
        gae_lambda=s["lam"],
        clip_range=s["clip"],
        max_grad_norm=s["clip_norm"],
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
        device="cpu",
        seed=seed,
    )
