"""Rounds of Stable-Baselines3's PPO, timed; runs in the peers' environment (see `make peers`)."""

from __future__ import annotations

import json
import sys
import time

import torch
from sb3_side import made
from worker import serve

torch.set_num_threads(1)
s = json.loads(sys.argv[1])
model = made(s, seed=0)
spent = [0.0]
train = model.train


def timed() -> None:
    begun = time.perf_counter()
    train()
    spent[0] += time.perf_counter() - begun


model.train = timed


def turn() -> dict[str, float]:
    spent[0], begun, cpu = 0.0, time.perf_counter(), time.process_time()
    model.learn(s["count"] * s["horizon"], reset_num_timesteps=False)
    total = time.perf_counter() - begun
    return {"seconds": total, "update": spent[0], "cpu": time.process_time() - cpu}


serve(turn)
