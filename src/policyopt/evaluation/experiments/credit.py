"""Credit for single steps: turns of several steps, few steps that decide, rewards along the way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import strings_with_target
from policyopt.run import Run
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tables import TabularMDP


@dataclass(frozen=True)
class Turns:
    """A world of numbered states whose steps belong to turns: the turn of every state."""

    inner: Any
    turn: Tensor  # (S,)

    @property
    def size(self) -> int:
        return self.inner.size

    def tasks(self, ids: Tensor) -> Tasks:
        return self.inner.tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        return self.inner.start(tasks)

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = self.inner.append(batch, step, logp, live, version)
        return added.with_steps({"turn": self.turn[added.step["_state"]]})

    def grade(self, batch: Batch) -> Tensor:
        return self.inner.grade(batch)


def corridor(turns: int, short: int, long: int) -> tuple[TabularMDP, Tensor]:
    """A corridor of `turns` rooms, left by an action with two names: choice 0 begins the one of `short` tokens, choice
    1 that of `long`; all later tokens of a name are forced. Reward 1 for leaving the last room. Also the turn of every
    state; state room * (short + long - 1) is where a room's action begins."""
    width = short + long - 1
    last = turns * width
    move = torch.zeros(last + 1, 2, last + 1)
    move[last, :, last] = 1.0
    for room in range(turns):
        begin, onward = room * width, (room + 1) * width
        for choice, length, first in ((0, short, begin + 1), (1, long, begin + short)):
            path = [*range(first, first + length - 1), onward]
            move[begin, choice, path[0]] = 1.0
            for here, there in itertools.pairwise(path):
                move[here, :, there] = 1.0
    reward = torch.zeros(last + 1, 2, last + 1)
    reward[:last, :, last] = 1.0
    ends = torch.arange(last + 1) == last
    mdp = TabularMDP(move, reward, (torch.arange(last + 1) == 0).double(), terminal=ends)
    return mdp, torch.arange(last + 1) // width


def two_names_of_an_action(method: Method, seed: int, rounds: int) -> Outcome:
    """A corridor of three turns; in each, an action of 1 token and one of 6 do the same. Reward 1 at its end.

    value: |P(short name) - 1/2|, mean over turns, exact.
    """
    mdp, turn = corridor(3, 1, 6)
    world, first = Turns(mdp, turn), torch.arange(3) * 6

    def preference(run: Run, done: Round) -> float:
        return float((probabilities(run)[first, 0] - 0.5).abs().mean())

    done = fit(method, world, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, preference)
    notes = {"probability of the short name, mean over turns": float(done.table[first, 0].mean())}
    score = -done.watched[-1]
    return Outcome(done.watched[-1], score, done.rows, done.watched, "|P(short name) - 1/2|", notes)


def decisive_turns(method: Method, seed: int, rounds: int, turns: int = 10, choices: int = 4) -> Outcome:
    """Ten turns of one choice of four; two of them decide: reward 1 if both are right.

    value: probability of success, mean over rounds, exact.
    """
    rng = stream(seed, "decisive turns")
    target = strings_with_target(1, choices, turns, rng)[0]
    decisive = torch.randperm(turns, generator=rng)[:2]

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, decisive] == target[decisive]).all(1).float()

    world = Turns(SequenceWorld(1, choices, turns, reward), torch.arange(turns))
    idle = torch.ones(turns, dtype=torch.bool)
    idle[decisive] = False
    first = torch.full((turns, choices), 1 / choices)
    moved: list[float] = []

    def success(run: Run, done: Round) -> float:
        nonlocal first
        table = probabilities(run)
        moved.append(float(((table - first)[idle] ** 2).sum()))
        first = table
        return float(table[decisive, target[decisive]].prod())

    done = fit(method, world, {"policy": uniform_table(turns, choices)}, rounds, seed, success)
    mean = sum(done.watched) / len(done.watched)
    notes = {
        "squared change of the idle turns' probabilities, sum over rounds": sum(moved),
        "probability of success after training": done.watched[-1],
    }
    return Outcome(mean, mean, done.rows, done.watched, "probability of success", notes)
