"""Preferences that no score explains: games with cycles, against their exact equilibria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers, probabilities, random_table, total_variation
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Round, Tasks
from policyopt.worlds.sequences import PairedWorld, SequenceWorld


# -- games (A, A): P[a, b] is the probability that a is preferred to b ------------------------------------------------
def exploitability(game: Tensor, policy: Tensor) -> Tensor:
    """How often the best answer to a policy (..., A) beats it, beyond 1/2; game (..., A, A). 0 at an equilibrium."""
    return (game @ policy[..., None])[..., 0].max(-1).values - 0.5


def equilibrium(game: Tensor) -> Tensor:
    """(A,) a policy that no other beats, by linear programming: max v with p P[:, b] >= v for every b."""
    size = len(game)
    found = linprog(
        np.r_[np.zeros(size), -1.0],
        A_ub=np.c_[-game.T.double().numpy(), np.ones(size)],
        b_ub=np.zeros(size),
        A_eq=np.r_[np.ones(size), 0.0][None],
        b_eq=np.ones(1),
        bounds=[(0, 1)] * (size + 1),
    )
    return torch.tensor(found.x[:size], dtype=torch.float64)


def regularised_equilibrium(game: Tensor, reference: Tensor, tau: float, steps: int = 2000) -> Tensor:
    """(A,) the only p prop. to reference exp(P p / tau), by small steps of mirror descent, which stop there exactly."""
    game, anchor, share = game.double(), reference.double().log(), 0.02
    policy = anchor.softmax(-1)
    for _ in range(steps):
        policy = ((1 - share) * policy.log() + share * (anchor + game @ policy / tau)).softmax(-1)
    return policy


def bradley_terry(game: Tensor, weight: Tensor, steps: int = 500) -> Tensor:
    """(A,) the scores whose logistic differences are most likely, for pairs drawn from `weight` (A,)."""
    pairs = weight.double()[:, None] * weight.double() * (1 - torch.eye(len(game), dtype=torch.float64))
    wins, strength = (pairs * game.double()).sum(1), torch.ones(len(game), dtype=torch.float64)
    for _ in range(steps):
        strength = wins / (pairs / (strength[:, None] + strength)).sum(1)
        strength = strength / strength.mean()
    scores = strength.log()
    return scores - (weight * scores).sum()


def cyclic_game(answers: int, rng: torch.Generator) -> Tensor:
    """Every answer beats the (answers - 1) / 2 that follow it, with chances of 0.6 to 0.95."""
    chance = 0.6 + 0.35 * torch.rand(answers, answers, generator=rng)
    game = torch.full((answers, answers), 0.5)
    for a in range(answers):
        for ahead in range(1, (answers - 1) // 2 + 1):
            b = (a + ahead) % answers
            game[a, b], game[b, a] = chance[a, b], 1 - chance[a, b]
    return game


@dataclass(frozen=True)
class Games:
    """One game per task, (N, A, A), and the policy that training begins with, (N, A)."""

    game: Tensor
    first: Tensor

    @property
    def scores(self) -> Tensor:
        """(N, A) Bradley-Terry scores of comparisons of the first policy's answers."""
        return torch.stack([bradley_terry(g, p) for g, p in zip(self.game, self.first, strict=True)])

    def world(self, oracle: str = "game") -> SequenceWorld:
        """One answer per row. It is worth its Bradley-Terry score; `oracle` says who wins."""
        scores = self.scores.float()
        modelled = torch.sigmoid(scores[:, :, None] - scores[:, None])
        chance = modelled if oracle == "bradley_terry" else self.game
        tasks, answers = self.first.shape
        return SequenceWorld(
            tasks, answers, 1, lambda s, t: scores[t, s[:, 0]], compare=lambda a, b, t: chance[t, a[:, 0], b[:, 0]]
        )


def games(seed: int, tasks: int, answers: int) -> tuple[Games, Tensor]:
    """Random cyclic games, and the logits of a random first policy."""
    rng = numbers(seed, "games")
    game = torch.stack([cyclic_game(answers, rng) for _ in range(tasks)])
    logits = random_table(tasks, answers, 0.7, seed, "policy").logits.detach()
    return Games(game, logits.softmax(-1)), logits


def cyclic_preferences(
    method: Method,
    seed: int,
    rounds: int,
    answers: int = 3,
    iterate: Literal["last", "average"] = "last",
    oracle: Literal["game", "bradley_terry"] = "game",
    tau: float = 0.05,
) -> Outcome:
    """4 tasks, each with a preference that is a random cycle of its answers: no score explains it. Rewards of the world
    are the scores of the Bradley-Terry model that fits comparisons of the first policy's answers best.

    oracle: who answers comparisons, the true preference or that model. tau: of the regularised game, in the notes.
    value: exploitability of the last policy or of the average over rounds: how much more than half of the time the
    best answer to it is preferred, mean over tasks, exact.
    """
    made, logits = games(seed, 4, answers)
    policy = random_table(4, answers, 0.7, seed, "policy")
    total = torch.zeros(logits.shape)

    def watch(run: Run, done: Round) -> float:
        now = probabilities(run)
        total.add_(now)
        return float(exploitability(made.game, now).mean())

    done = fit(method, made.world(oracle), {"policy": policy}, rounds, seed, watch)
    average = float(exploitability(made.game, total / rounds).mean())
    goal = torch.stack([regularised_equilibrium(g, p, tau) for g, p in zip(made.game, made.first, strict=True)])
    best = torch.nn.functional.one_hot(made.scores.argmax(-1), answers).float()
    notes = {
        "exploitability of the last policy": done.watched[-1],
        "exploitability of the average policy": average,
        "exploitability of the first policy": float(exploitability(made.game, made.first).mean()),
        "exploitability of always the best by Bradley-Terry": float(exploitability(made.game, best).mean()),
        "exploitability of the regularised equilibrium": float(exploitability(made.game.double(), goal).mean()),
        "distance of the last policy to it": total_variation(done.table, goal),
    }
    value = average if iterate == "average" else done.watched[-1]
    return done.outcome("exploitability of the policy", notes, value=value, score=-value)


def compared_in_cycles(method: Method, seed: int, rounds: int, answers: int = 5) -> Outcome:
    """4 tasks with cyclic preferences; pairs of different answers, all as often, the winner drawn. A model `preference`
    compares answers, a model `reward` by its scores.

    value: share of all pairs of answers of which the model prefers the one that is preferred more often, exact.
    """
    made, logits = games(seed, 4, answers)
    rng, count = numbers(seed, "compared in cycles"), rounds * method.selection.count
    task = torch.randint(4, (count,), generator=rng)
    first = torch.randint(answers, (count,), generator=rng)
    second = (first + torch.randint(1, answers, (count,), generator=rng)) % answers
    ahead = torch.rand(count, generator=rng) < made.game[task, first, second]
    pairs = torch.stack([torch.where(ahead, first, second), torch.where(ahead, second, first)], 1)[:, :, None]
    world = SequenceWorld(4, answers, 1, lambda s, t: torch.zeros(len(t)), pairs=pairs, pair_tasks=task)
    every = world.complete(Tasks(torch.arange(4).repeat_interleave(answers)), torch.arange(answers).repeat(4)[:, None])
    place = torch.arange(4 * answers).view(4, answers)
    sides = [
        side.flatten() for side in (place[:, :, None].expand(-1, -1, answers), place[:, None].expand_as(made.game))
    ]

    def learned(run: Run) -> Tensor:
        """(4, A, A)"""
        with torch.no_grad():
            if "preference" in run.models:
                model: Any = run.models["preference"]
                return model.compare(every, *sides).sigmoid().view_as(made.game)
            scores: Any = run.models["reward"]
            said = scores.worth(every).view(4, answers)
            return torch.sigmoid(said[:, :, None] - said[:, None])

    def right(run: Run, done: Round) -> float:
        same = (learned(run) - 0.5).sign() == (made.game - 0.5).sign()
        return float(same.sum((1, 2)).sub(answers).double().mean() / (answers * (answers - 1)))

    done = fit(method, PairedWorld(world), {"policy": Table(logits)}, rounds, seed, right)
    found = learned(done.run)
    kept = torch.stack([equilibrium(game.double()) for game in found])
    notes = {
        "mean error of its probabilities": float((found - made.game).abs().mean()),
        "exploitability of its equilibrium": float(exploitability(made.game.double(), kept).mean()),
        "exploitability of the first policy": float(exploitability(made.game, made.first).mean()),
    }
    return done.outcome("share of pairs told right", notes)
