"""Tables that are planned: from a person's recorded choices, and from comparisons of trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers, probabilities, uniform_table
from policyopt.evaluation.experiments._worlds import Wrapped
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.oracles import expected_return, optimum
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP, step_rewards, unrolled


def logistic_person(mdp: TabularMDP, discount: float) -> Tensor:
    """(S, A) choice probabilities of somebody who maximises rewards of a discount with logistic errors, on a process
    that tells the time."""
    value = torch.zeros(mdp.states, dtype=torch.float64)
    on = (~mdp.ends).double()
    q = mdp.mean_reward
    for _ in range(mdp.states):
        q = mdp.mean_reward + discount * mdp.transition @ value
        new = q.logsumexp(1) * on
        if torch.equal(new, value):
            break
        value = new
    return q.softmax(1)


def myopic_person(
    method: Method, seed: int, rounds: int, states: int = 5, horizon: int = 4, episodes: int = 2000, near: float = 0.5
) -> Outcome:
    """A random process of 5 states, 4 steps and 3 choices: the first of reward 0, the second of -1..2, the third of
    -4, so that it is rarely chosen. 2000 episodes of a person who discounts by `near` and errs; the policy is to
    maximise the undiscounted return.

    value: return / that of the best policy, exact.
    """
    rng = numbers(seed, "myopic person")
    move = torch.rand(states, 3, states, generator=rng).double() ** 4
    paid = torch.stack([torch.zeros(states), 3 * torch.rand(states, generator=rng) - 1, torch.full((states,), -4.0)], 1)
    first = torch.zeros(states, dtype=torch.float64)
    first[0] = 1.0
    mdp = unrolled(TabularMDP(move / move.sum(-1, keepdim=True), paid.double(), first, 1.0, horizon, seed=seed))
    author = logistic_person(mdp, near)
    best = expected_return(mdp, optimum(mdp)[2])

    def share(run: Run, done: Round) -> float:
        return expected_return(mdp, probabilities(run).double()) / best

    world = RecordedEpisodes(mdp, author, episodes)
    done = fit(method, world, {"policy": uniform_table(mdp.states, 3)}, rounds, seed, share)
    notes = {"the person's own share": expected_return(mdp, author) / best}
    return done.outcome("share of the best return", notes)


@dataclass(frozen=True)
class Compared(Wrapped):
    """A process whose rows pay nothing; two of them are compared by their returns, Bradley-Terry."""

    scale: float

    def grade(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch), batch.steps, dtype=batch.step["reward"].dtype)

    def prefer(self, first: Batch, second: Batch) -> Tensor:
        one, other = (step_rewards(rows, self.inner.reward).sum(1) for rows in (first, second))
        return torch.sigmoid(self.scale * (one - other).double())

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)


def compared_swims(method: Method, seed: int, rounds: int, length: int = 4, horizon: int = 6) -> Outcome:
    """River swim: 4 states from the left bank, 6 steps. To the left costs nothing and pays 0.05 at the left bank; to
    the right succeeds in 4 of 5 steps, is held in 3 of 20, and pays 1 at the right bank. Pairs of episodes are
    compared, Bradley-Terry on 4 times their returns. The policy stays at the left bank at first.

    value: regret over all episodes, per episode, over the best return, exact.
    """
    move = torch.zeros(length, 2, length, dtype=torch.float64)
    for state in range(length):
        left, right = max(state - 1, 0), min(state + 1, length - 1)
        move[state, 0, left] = 1.0
        for reached, chance in ((right, 0.8), (state, 0.15), (left, 0.05)):
            move[state, 1, reached] += chance
    paid = torch.zeros(length, 2, dtype=torch.float64)
    paid[0, 0], paid[-1, 1] = 0.05, 1.0
    first = (torch.arange(length) == 0).double()
    mdp = unrolled(TabularMDP(move, paid, first, 1.0, horizon, seed=seed))
    best = expected_return(mdp, optimum(mdp)[2])
    asked: list[float] = []

    def share(run: Run, done: Round) -> float:
        asked.append(done.metrics.get("asked", 0.0))
        return 1 - expected_return(mdp, probabilities(run).double()) / best

    world, resting = Compared(mdp, 4.0), torch.tensor([[0.0, -60.0]]).repeat(mdp.states, 1)
    done = fit(method, world, {"policy": Table(resting)}, rounds, seed, share)
    notes = {
        "comparisons asked for": sum(asked),
        "regret of the last tenth": sum(done.watched[-rounds // 10 :]) * 10 / rounds,
    }
    return done.outcome("regret of an episode", notes, value=sum(done.watched) / rounds, score=-done.watched[-1])
