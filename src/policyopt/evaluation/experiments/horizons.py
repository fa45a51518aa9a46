"""Cloning and reward optimisation as the horizon grows."""

from __future__ import annotations

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, probabilities, uniform_table
from policyopt.methods import load
from policyopt.options import override
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Source
from policyopt.update.first import RECORDED, TrainedFirst
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP

TRACK, STRAY, FALLEN = range(3)


def narrow_path(steps: int, slip: float, seed: int = 0) -> TabularMDP:
    """A path of `steps` steps beside a cliff; states (time, lane) number 3 time + lane. On the track action 0 stays on
    it but slips aside with probability `slip`, the others leave it; aside, action 1 leads back and the others fall;
    who has fallen stays so. Reward -1 for falling."""
    states = 3 * (steps + 1)
    move = torch.zeros(states, 3, states, dtype=torch.float64)
    reward = torch.zeros(states, 3, states, dtype=torch.float64)
    for time in range(steps):
        here, there = 3 * time, 3 * (time + 1)
        move[here + TRACK, 0, there + TRACK], move[here + TRACK, 0, there + STRAY] = 1 - slip, slip
        move[here + TRACK, 1:, there + STRAY] = 1.0
        move[here + STRAY, 1, there + TRACK] = 1.0
        move[here + STRAY, [0, 2], there + FALLEN] = 1.0
        reward[here + STRAY, [0, 2], there + FALLEN] = -1.0
        move[here + FALLEN, :, there + FALLEN] = 1.0
    last = torch.arange(states) >= 3 * steps
    move[last] = torch.eye(states, dtype=torch.float64)[last][:, None]
    return TabularMDP(move, reward, (torch.arange(states) == 0).double(), 1.0, None, last, seed=seed)


def failure_rate(mdp: TabularMDP, steps: int, table: Tensor) -> float:
    """The probability of having fallen at the end, exact."""
    here, table = mdp.start_at[0], table.double()
    for _ in range(steps):
        here = torch.einsum("s,sa,sat->t", here, table, mdp.transition)
    return float(here[3 * steps + FALLEN])


def imitation_horizon(method: Method, seed: int, rounds: int, steps: int = 40) -> Outcome:
    """A path of `steps` steps beside a cliff (`narrow_path`, slips of 5%), 20 demonstrations of an expert who never
    errs, and a table. Half of the rounds clone the demonstrations; the other half are the method's.

    value: probability of falling, exact.
    """
    mdp = narrow_path(steps, 0.05, seed)
    expert = torch.zeros(mdp.states, 3, dtype=torch.float64)
    expert[torch.arange(mdp.states), torch.tensor([0, 1, 0]).repeat(steps + 1)] = 1.0
    world = RecordedEpisodes(mdp, expert.clamp(min=1e-12), 20)
    clone = override(load("sft"), {"selection.count": 32, "update.learning_rate": 0.1, "update.schedule": "constant"})
    first = rounds // 2
    engine, recorded, watched = CountingEngine(), 0, []
    run = Run({"policy": uniform_table(mdp.states, 3)}, world, engine, seed)
    # Recordings that a method compares its own rows with before a round are read as well.
    hooks = [hook for hook in method.before if isinstance(hook, TrainedFirst)]
    read = sum(hook.count * hook.authors.count(RECORDED) for hook in hooks)
    for done in train_rounds(run, Program((Stage(clone, first), Stage(method, rounds - first)))):
        recorded += int((done.judged.row["source"] == Source.DATASET).sum())
        watched.append(failure_rate(mdp, steps, probabilities(run)))
    notes = {
        "probability of falling half way": watched[first - 1],
        "probability that the expert falls": failure_rate(mdp, steps, expert),
    }
    rows = engine.rows + recorded + read * (rounds - first)
    return Outcome(watched[-1], -watched[-1], rows, tuple(watched), "probability of falling", notes)
