"""Recordings of several ways to act, told apart by preferences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers
from policyopt.evaluation.experiments.segments import Segments
from policyopt.policies.hindsight import HindsightActor
from policyopt.run import Run
from policyopt.types import Round

GOALS = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
PAID = torch.tensor([1.0, 0.7, 0.4, 0.1])


def _paid(state: Tensor) -> Tensor:
    """What a place in the plane pays: near goal i PAID[i]."""
    near = torch.exp(-((state[..., None, :] - GOALS) ** 2).sum(-1) / 0.5)
    return (near * PAID).sum(-1)


def four_goals(method: Method, seed: int, rounds: int, size: int = 4, length: int = 20) -> Outcome:
    """A point starts near the middle of the plane and moves by its action, at most 0.15 a dimension. Four controllers
    each head for a goal, which pay 1, 0.7, 0.4 and 0.1 nearby. 500 pairs of their windows of 20 steps, the one of the
    larger return first.

    value: return of the policy's mean steps from 64 starts / that of the best controller.
    """
    rng = numbers(seed, "four goals")
    goal = torch.randint(4, (1_000,), generator=rng)
    state, states, steps, paid = 0.1 * torch.randn(1_000, 2, generator=rng), [], [], torch.zeros(1_000)
    for _ in range(length):
        step = (0.3 * (GOALS[goal] - state)).clamp(-0.15, 0.15) + 0.02 * torch.randn(1_000, 2, generator=rng)
        states.append(state)
        steps.append(step)
        state = state + step
        paid = paid + _paid(state)
    order = paid.view(-1, 2).argsort(1, descending=True)
    path, taken = (torch.stack(x, 1).view(500, 2, length, 2) for x in (states, steps))
    index = order[:, :, None, None].expand(-1, -1, length, 2)
    world = Segments(path.gather(1, index), taken.gather(1, index), names=("_obs", "_action"))
    begun = 0.1 * torch.randn(64, 2, generator=rng)

    def worth(act: Any) -> float:
        here, total = begun, torch.zeros(64)
        for _ in range(length):
            here = here + act(here).clamp(-0.2, 0.2)
            total = total + _paid(here)
        return float(total.mean())

    best = worth(lambda here: (0.3 * (GOALS[0] - here)).clamp(-0.15, 0.15))
    policy = HindsightActor(2, 2, size if "wish" in method.models else 0, width=32, seed=seed)

    def share(run: Run, done: Round) -> float:
        if run.step % 50 and run.step != rounds - 1:
            return float("nan")
        with torch.no_grad():
            return worth(lambda here: policy.act(here, policy.aim().expand(len(here), -1)).mean) / best

    done = fit(method, world, {"policy": policy}, rounds, seed, share)
    measured = tuple(x for x in done.watched if x == x)
    ordered = 0.0
    if policy.size:
        with torch.no_grad():
            rows = world.recorded(world.tasks(torch.arange(500)))
            apart = torch.linalg.vector_norm(policy.aim() - policy.embed(rows), dim=1)
        kept = goal.view(500, 2).gather(1, order).flatten()
        mean = torch.stack([apart[kept == n].mean() for n in range(4)])
        ordered = float((mean[:-1] < mean[1:]).float().mean())
    notes = {"share of neighbouring goals whose windows z* ranks right (0: no z*)": ordered}
    return Outcome(measured[-1], measured[-1], done.rows, measured, "share of the best controller's return", notes)
