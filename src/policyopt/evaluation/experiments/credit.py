"""Credit for single steps: turns of several steps, few steps that decide, rewards along the way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, frozen
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Turns, strings_with_target
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Round
from policyopt.worlds.sequences import PairedWorld, SequenceWorld
from policyopt.worlds.tables import TabularMDP


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
    return done.outcome("|P(short name) - 1/2|", notes, score=score)


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
    return done.outcome("probability of success", notes, value=mean)


def favourite_symbol(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 8 of 6 symbols from a reference with preferences of its own; reward = share of one symbol.

    value: -log of the reference's probability of a sampled symbol, nats, mean over positions and tasks, exact.
    """
    tasks, limit, choices = 4, 8, 6
    world = SequenceWorld(tasks, choices, limit, lambda strings, task: (strings == 0).double().mean(1).float())
    policy = random_table(world.states, choices, 1.0, seed, "policy")
    reference = policy.logits.detach().log_softmax(-1)
    shares: list[float] = []

    def surprise(run: Run, done: Round) -> float:
        table = probabilities(run)
        shares.append(float(table[:, 0].mean()))
        return float(-(table * reference).sum(1).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, surprise)
    kl = float((done.table * (done.table.clamp(min=1e-30).log() - reference)).sum(1).mean())
    notes = {
        "the same of the reference's own symbols": float(-(reference.exp() * reference).sum(1).mean()),
        "KL to the reference per symbol": kl,
        "entropy per symbol": float(torch.special.entr(done.table).sum(1).mean()),
        "share of the rewarded symbol": shares[-1],
    }
    return done.outcome("-log reference, nats per symbol", notes, score=shares[-1])


def hidden_token_rewards(method: Method, seed: int, rounds: int, pairs: int = 500) -> Outcome:
    """One task, strings of 16 of 6 symbols; a string is worth the mean of hidden rewards of its symbols at their
    places. A model is trained by DPO on `pairs` preferences (Bradley-Terry, of sums) between strings of the reference,
    which is uniform; the method gets it as `preferred`.

    value: (J - J uniform) / (best J - J uniform), mean over rounds, exact.
    """
    tasks, limit, choices = 1, 16, 6
    rng = stream(seed, "hidden token rewards")
    hidden = torch.randn(tasks, limit, choices, generator=rng)

    def worth(strings: Tensor, task: Tensor) -> Tensor:
        return hidden[task].gather(2, strings.clamp(min=0)[:, :, None])[..., 0].mean(1)

    strings = torch.randint(choices, (pairs, 2, limit), generator=rng)
    asked = torch.arange(pairs) % tasks
    gap = limit * (worth(strings[:, 0], asked) - worth(strings[:, 1], asked))
    swap = torch.rand(pairs, generator=rng) > gap.sigmoid()
    strings[swap] = strings[swap].flip(1)
    world = SequenceWorld(tasks, choices, limit, worth, pairs=strings, pair_tasks=asked)
    dpo = override(load("dpo"), {"selection.count": 100, "update.learning_rate": 0.1, "update.warmup": 0})
    preferred = fit(
        dpo, PairedWorld(world), {"policy": uniform_table(world.states, choices)}, 30, seed, lambda run, done: 0.0
    ).run.models["policy"]
    table: Any = frozen(preferred)
    mean, best = hidden.mean(), hidden.amax(2).mean()

    def attained(run: Run, done: Round) -> float:
        return float(((probabilities(run).view_as(hidden) * hidden).sum(2).mean() - mean) / (best - mean))

    models = {"policy": uniform_table(world.states, choices), "preferred": table}
    done = fit(method, world, models, rounds, seed, attained)
    flat = torch.stack(
        [
            (table.logits - table.logits.mean(1, keepdim=True)).flatten(),
            (hidden - hidden.mean(2, keepdim=True)).flatten(),
        ]
    )
    notes = {
        "correlation of the DPO model's log-ratios with the hidden rewards": float(torch.corrcoef(flat)[0, 1]),
        "share of the attainable reward after training": done.watched[-1],
    }
    value = sum(done.watched) / len(done.watched)
    return done.outcome("share of the attainable reward", notes, value=value)


def forks_and_copies(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 8 of 6 symbols; reward 1 if all are right. One position is a fork, where 3 symbols are right
    and the policy prefers some; at the others one is, which it has with probability 0.8.

    value: entropy of the fork, nats, exact, at the first round with success of at least 0.9 (at the end if never).
    score: success after training.
    """
    tasks, limit, choices = 4, 8, 6
    rng = stream(seed, "forks and copies")
    right = torch.nn.functional.one_hot(strings_with_target(tasks, choices, limit, rng), choices).bool()
    fork = torch.randint(limit, (tasks,), generator=rng)
    right[torch.arange(tasks), fork] = torch.rand(tasks, choices, generator=rng).argsort(-1) < 3
    logits = torch.where(right, math.log(0.8), math.log(0.2 / (choices - 1)))
    logits[torch.arange(tasks), fork] = torch.randn(tasks, choices, generator=rng)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return right[task].gather(2, strings.clamp(min=0)[:, :, None])[..., 0].all(1).float()

    world = SequenceWorld(tasks, choices, limit, reward)
    success: list[float] = []
    copied: list[float] = []

    def uncertain(run: Run, done: Round) -> float:
        p = probabilities(run).view(tasks, limit, choices)
        success.append(float((p * right).sum(2).prod(1).mean()))
        entropy = torch.special.entr(p).sum(2)
        at_fork = entropy[torch.arange(tasks), fork]
        copied.append(float((entropy.sum(1) - at_fork).mean() / (limit - 1)))
        return float(at_fork.mean())

    done = fit(method, world, {"policy": Table(logits.view(-1, choices))}, rounds, seed, uncertain)
    reached = next((i for i, s in enumerate(success) if s >= 0.9), len(success) - 1)
    notes = {
        "round at which success reached 0.9 (or the last)": float(reached + 1),
        "success after training": success[-1],
        "entropy of the fork after training": done.watched[-1],
        "entropy of a copied symbol after training": copied[-1],
    }
    return done.outcome("entropy of the fork (nats)", notes, value=done.watched[reached], score=success[-1])
