"""Where updates leave their mark besides success: entropy, lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Automaton
from policyopt.run import Run
from policyopt.types import Round
from policyopt.worlds.sequences import SequenceWorld

MATCHED = 0.7
"""Success at which entropies are compared."""


def entropy_at_success(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 3 of 12 symbols of which 4 are right at each position; reward 1 if all three are right.
    The policy starts with unequal preferences, so it can collapse onto the right symbols it liked already.

    value: entropy per symbol, nats, exact, at the first round with success of at least 0.7 (at the end if never).
    score: success after training.
    """
    rng = stream(seed, "entropy at success")
    tasks, limit, choices, right = 4, 3, 12, 4
    good = torch.rand(tasks, limit, choices, generator=rng).argsort(-1) < right  # (tasks, limit, choices)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return good[task].gather(2, strings[:, :, None])[..., 0].all(1).float()

    world = SequenceWorld(tasks, choices, limit, reward)
    policy = random_table(world.states, choices, 1.0, seed, "policy")
    success: list[float] = []

    def entropy(run: Run, done: Round) -> float:
        p = probabilities(run).view(tasks, limit, choices)
        success.append(float((p * good).sum(-1).prod(1).mean()))
        return float(torch.special.entr(p).sum(-1).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, entropy)
    reached = next((i for i, s in enumerate(success) if s >= MATCHED), len(success) - 1)
    notes = {
        "round at which success reached 0.7 (or the last)": float(reached + 1),
        "success after training": success[-1],
        "entropy after training": done.watched[-1],
    }
    return done.outcome("entropy per symbol (nats)", notes, value=done.watched[reached], score=success[-1])


def wrong_lengths(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks; the first of up to 24 symbols decides whether a row is right (one of 3 is), the rest is idle until
    the end symbol. The policy knows whether its row is already wrong.

    value: expected length of a row that is wrong, exact from the table, mean over tasks.
    score: probability of the right first symbol after training.
    """
    tasks, limit, end = 4, 24, 3
    target = torch.randint(3, (tasks,), generator=stream(seed, "wrong lengths"))

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        return (strings[:, 0] == target[task]).float()

    def follow(state: Tensor, symbol: Tensor) -> Tensor:
        task, position = state // (2 * limit), state % limit
        wrong = torch.where(position == 0, symbol != target[task], state % (2 * limit) >= limit)
        return task * 2 * limit + wrong.long() * limit + (position + 1).clamp(max=limit - 1)

    inner = SequenceWorld(tasks, 4, limit, reward, end=end)
    world = Automaton(inner, tasks * 2 * limit, lambda task: task * 2 * limit, follow)
    # Uniform over the four symbols, but never an empty answer.
    start = uniform_table(world.states, 4)
    with torch.no_grad():
        start.logits[torch.arange(tasks) * 2 * limit, end] = -20.0
    success: list[float] = []

    def length(run: Run, done: Round) -> float:
        table = probabilities(run)
        first = table[torch.arange(tasks) * 2 * limit]
        success.append(float(first.gather(1, target[:, None]).mean()))
        stop = table[:, end].view(tasks, 2, limit)[:, 1, 1:]  # of a wrong row, at positions 1...
        return float(1 + (1 - stop).cumprod(1)[:, :-1].sum(1).add(1).mean())

    done = fit(method, world, {"policy": start}, rounds, seed, length)
    notes = {"probability of a right answer after training": success[-1]}
    return done.outcome("expected length of a wrong row", notes, score=success[-1])
