"""Small runs of every method, shared by the tests and by the process that kills itself.

As a script: `resume_cases.py FOLDER ROUNDS WHERE` trains all of them side by side and then kills itself, as `kill -9`
would: after ROUNDS rounds of each ("between"), inside the next round ("inside") or while the last run's next
checkpoint takes its place ("saving").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import one_hot

from policyopt.compose import Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.session import Hooks, Session
from policyopt.types import Round
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW, Cosine
from policyopt.worlds.sequences import PairedWorld, SequenceWorld

METHODS = (
    "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "ppo", "sft",
    "dpo", "dpo:dpo_online", "opd", "opd:opd_sampled",
)  # fmt: skip
# Epochs have 7 tasks and rounds 3, so nearly every round ends within an epoch.
TASKS, CHOICES, LIMIT, COUNT = 7, 4, 5, 3
FIRST, SECOND = 4, 7  # rounds of the supervised stage, and of the method's
ROUNDS = FIRST + SECOND
END = 0

_target = torch.tensor(
    [[1, 2, 0, -1, -1], [3, 0, -1, -1, -1], [2, 2, 1, 3, 0], [1, 0, -1, -1, -1], [3, 1, 2, 0, -1], [2, 0, -1, -1, -1],
     [1, 3, 3, 1, 0]]
)  # fmt: skip
_worse = torch.where(_target > 0, _target % 3 + 1, _target)


def _reward(strings: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
    return (strings == _target[task, : strings.shape[1]]).double().mean(1).float()


WORLD = SequenceWorld(
    TASKS, CHOICES, LIMIT, _reward, END, torch.stack([_target, _worse], 1), torch.arange(TASKS), _target
)


def _small(method: Method) -> Method:
    """The method with few tasks a round, a scheduled AdamW, two epochs of two minibatches."""
    rate = AdamW(0.05, weight_decay=0.01, schedule=Cosine(warmup=2, final=0.1))
    assert isinstance(method.update, GradientSteps)
    optimizers = dict.fromkeys(method.update.optimizers, rate)
    return replace(
        method,
        selection=replace(method.selection, count=COUNT),
        update=replace(method.update, optimizers=optimizers, epochs=2, minibatches=2),
    )


def program(key: str) -> Program:
    """Supervised rounds, then the method."""
    method = _small(load(key))
    if key == "dpo":
        method = replace(method, world="pairs")
    return Program((Stage(_small(load("sft")), FIRST), Stage(method, SECOND)))


def new_run(key: str, seed: int = 3) -> Run:
    models: dict[str, torch.nn.Module] = {"policy": Table(torch.zeros(WORLD.states, CHOICES))}
    if key.startswith("opd"):
        models["teacher"] = Table(one_hot(_target.clamp(min=0).flatten(), CHOICES).float() * 2)
    return Run(models, WORLD, generate, seed, {"pairs": PairedWorld(WORLD)})


def samples(done: Round) -> Iterator[Mapping[str, Any]]:
    """The first row of a round, as text."""
    yield {"task": int(done.judged.row["task"][0]), "text": str(WORLD.strings(done.judged)[0].tolist())}


def folder(base: Path, key: str) -> RunFolder:
    path = base / key.replace(":", "-")
    return RunFolder.open(path) if path.exists() else RunFolder.create(path, f"method: {key}\n", "loss\n")


def session(base: Path, key: str, seed: int = 3, every: int = 3) -> Session:
    return Session(new_run(key, seed), program(key), folder(base, key), every, hooks=Hooks(samples=samples))


def _kill() -> None:
    os.kill(os.getpid(), 9)


def _train_and_die(base: Path, count: int, where: str) -> None:
    torch.set_num_threads(1)
    sessions = [session(base, key) for key in METHODS]
    going = [one.rounds() for one in sessions]
    for _ in range(count):
        for one in going:
            next(one)
    if where == "inside":
        # Halfway through a round of the run that has most state.
        sessions[METHODS.index("ppo")].run.optimizers["4:ppo/critic"].step = lambda *_: _kill()
        next(going[METHODS.index("ppo")])
    if where == "saving":
        os.replace = lambda *_: _kill()
        for _ in range(ROUNDS):
            next(going[-1])
    _kill()


if __name__ == "__main__":
    _train_and_die(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
