"""One run of Stable-Baselines3's PPO: the training episodes as (step at the end, return)."""

from __future__ import annotations

import json
import sys

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

torch.set_num_threads(1)
asked = json.loads(sys.argv[1])
s = asked["setting"]
episodes: list[tuple[int, float]] = []


class Episodes(BaseCallback):
    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episodes.append((self.num_timesteps, float(info["episode"]["r"])))
        return True


model = PPO(
    "MlpPolicy",
    make_vec_env(s["env"], s["count"], seed=asked["seed"]),
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
    seed=asked["seed"],
)
model.learn(s["steps"], callback=Episodes())
print(json.dumps({"episodes": episodes}))
