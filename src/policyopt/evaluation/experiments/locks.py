"""Combination locks, which no single step tells anything about: by exploration, and from recorded rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.run import Run
from policyopt.types import Round
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP


def lock(code: Tensor) -> TabularMDP:
    """A combination lock of H steps of two choices: state h is open so far at step h, state H + h is not; the right
    choices code (H,) from first to last pay 1. State 2 H is the end."""
    steps = len(code)
    move = torch.zeros(2 * steps + 1, 2, 2 * steps + 1)
    move[-1, :, -1] = 1.0
    reward = torch.zeros(2 * steps + 1, 2)
    for h, right in enumerate(code.tolist()):
        onward, shut = (h + 1, steps + h + 1) if h + 1 < steps else (2 * steps, 2 * steps)
        move[h, right, onward] = 1.0
        move[h, 1 - right, shut] = 1.0
        move[steps + h, :, shut] = 1.0
    reward[steps - 1, code[-1]] = 1.0
    ends = torch.arange(2 * steps + 1) == 2 * steps
    return TabularMDP(move, reward, (torch.arange(2 * steps + 1) == 0).double(), terminal=ends)


def combination_lock(method: Method, seed: int, rounds: int, steps: int = 12) -> Outcome:
    """A combination lock of 12 steps of two choices, which a random policy opens once in 4096 episodes.

    value: probability of opening it after training, exact.
    """
    code = torch.randint(2, (steps,), generator=stream(seed, "combination lock"))
    mdp = lock(code)
    refits: list[float] = []

    def opens(run: Run, done: Round) -> float:
        refits.append(done.metrics.get("refits", 0.0))
        return float(probabilities(run)[torch.arange(steps), code].prod())

    done = fit(method, mdp, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, opens)
    reached = next((i + 1 for i, chance in enumerate(done.watched) if chance >= 0.9), rounds)
    notes = {"episodes until the probability is 0.9 (or all)": float(reached), "fits of the critic": sum(refits)}
    return done.outcome("probability of opening", notes)


def recorded_lock(method: Method, seed: int, rounds: int, steps: int = 14) -> Outcome:
    """A combination lock of 14 steps of two choices, and 200 recorded rows of an author that is right four times of
    five.

    value: probability of opening it after training, exact.
    """
    code = torch.randint(2, (steps,), generator=stream(seed, "recorded lock"))
    mdp = replace(lock(code), seed=seed)
    author = torch.full((mdp.states, 2), 0.5, dtype=torch.float64)
    author[torch.arange(steps), code] = 0.8
    author[torch.arange(steps), 1 - code] = 0.2

    def opens(run: Run, done: Round) -> float:
        return float(probabilities(run)[torch.arange(steps), code].prod())

    world = RecordedEpisodes(mdp, author, 200)
    done = fit(method, world, {"policy": uniform_table(mdp.states, 2)}, rounds, seed, opens)
    notes = {"probability that a recorded row opens it": 0.8**steps}
    return done.outcome("probability of opening", notes)
