"""Recordings of separate habits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._moves import Moves, actor, flat_states
from policyopt.run import Run
from policyopt.types import Round
from policyopt.worlds.drawings import ring_centres

SPREAD = 0.05


def best_habit(method: Method, seed: int, rounds: int) -> Outcome:
    """One-step tasks whose recorded actions are 8 Gaussians (std 0.05) on a circle of radius 0.3 to 0.8, which the
    state says; the reward is <u, a> plus noise of 0.1, u a direction 0.2 rad from one of the centres.

    value: distance of the policy's action to the nearest of 500 actions of the best habit of its state, mean over 256
    states, after training. A distance below 0.1 is on the habit.
    """
    ring = ring_centres(8, 1.0)
    best = int(torch.randint(8, (), generator=stream(seed, "best habit")))
    angle = math.atan2(float(ring[best, 1]), float(ring[best, 0])) + 0.2
    towards = torch.tensor([math.cos(angle), math.sin(angle)])
    spread = SPREAD * torch.randn(500, 2, generator=stream(seed, "fresh actions"))

    def radius(state: Tensor) -> Tensor:
        return 0.55 + 0.25 * state[:, :1]

    def pay(state: Tensor, action: Tensor) -> Tensor:
        return action @ towards

    def recorded(state: Tensor, u: Tensor) -> Tensor:
        place = 8 * u[:, 0]
        chance = torch.stack([place % 1, u[:, 1]], 1).clamp(1e-4, 1 - 1e-4)
        return radius(state) * ring[place.long().clamp(max=7)] + SPREAD * torch.special.ndtri(chance)

    world = Moves(2, 2, lambda s, a: s, pay, noise=0.1, author=recorded, seed=seed, size=8000)
    policy = actor(world, "deterministic", seed)
    states = 2 * torch.rand(256, 2, generator=stream(seed, "asked")) - 1

    def away() -> tuple[Tensor, Tensor]:
        """From the nearest action of the best habit, and of any habit."""
        with torch.no_grad():
            action = policy.emit(policy.at(flat_states(states, 2)).mode()[:, 0])
        centres = radius(states)[:, None] * ring
        gaps = (centres[:, :, None] + spread - action[:, None, None]).norm(dim=-1).amin(-1)
        return gaps[:, best], gaps.amin(1)

    def watch(run: Run, done: Round) -> float:
        return float(away()[0].mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    mine, nearest = away()
    notes = {
        "share of states with an action within 0.1 of the best habit": float((mine < 0.1).float().mean()),
        "distance to the nearest action of any habit": float(nearest.mean()),
    }
    return done.outcome("distance to the best habit", notes, score=-done.watched[-1])
