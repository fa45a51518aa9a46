"""One run of Stable-Baselines3's PPO: the training episodes as (step at the end, return)."""

from __future__ import annotations

import json
import sys

import torch
from sb3_side import made
from stable_baselines3.common.callbacks import BaseCallback

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


made(s, asked["seed"]).learn(s["steps"], callback=Episodes())
print(json.dumps({"episodes": episodes}))
