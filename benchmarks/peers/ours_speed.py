"""Rounds of this library's PPO, timed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from worker import serve

sys.path.append(str(Path(__file__).parents[1]))
from control_ours import made
from control_settings import Setting

from policyopt.train import rounds

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
execution = given.pop("execution")
run, program = made(Setting(**given), seed=0, rounds=10**6, execution=execution)
loop, spent = rounds(run, program), [0.0]
update = program.stages[0].method.update
call = type(update).__call__


def timed(self, ctx, batch) -> None:
    begun = time.perf_counter()
    call(self, ctx, batch)
    spent[0] += time.perf_counter() - begun


type(update).__call__ = timed


def turn() -> dict[str, float]:
    spent[0], begun, cpu = 0.0, time.perf_counter(), time.process_time()
    next(loop)
    return {"seconds": time.perf_counter() - begun, "update": spent[0], "cpu": time.process_time() - cpu}


serve(turn)
