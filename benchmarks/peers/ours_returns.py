"""One run of this library's PPO: the training episodes as (step at the end, return)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
from control_ours import made
from control_settings import Setting

from policyopt.train import rounds

torch.set_num_threads(1)
asked = json.loads(sys.argv[1])
s = Setting(**asked["setting"])
run, program = made(s, asked["seed"], -(-s.steps // s.batch), as_cleanrl=asked["as_cleanrl"])
episodes, taken = [], 0
for done in rounds(run, program):
    rows, taken = done.judged.row, taken + s.batch
    for earned, length in zip(rows["episode_return"].tolist(), rows["episode_length"].tolist(), strict=True):
        if length > 0:  # the episode ended in this round; where in it does not matter
            episodes.append((taken, earned))
print(json.dumps({"episodes": episodes}))
