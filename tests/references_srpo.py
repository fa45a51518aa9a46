"""Diffusion models of recorded steps, again as loops over Python numbers, and a linear one whose score is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.constraint.score import ScoreOfBehaviour
from policyopt.objective.matching import StepDenoising
from policyopt.ops.matching import Renoised
from policyopt.types import Batch
from references_values import DIMS, STATES
from support import numbers

Numbers = dict[str, Any]


class LinearNoise(nn.Module):
    """eps(x | s, t) = k(s) + W(s) x on the path a = cos(pi t / 2), b = sin(pi t / 2)."""

    def __init__(self, seed: int):
        super().__init__()
        self.k = nn.Parameter(numbers(STATES, DIMS, seed=seed))
        self.w = nn.Parameter(numbers(STATES, DIMS, DIMS, seed=seed + 1))

    def renoised(self, batch: Batch, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised:
        state, angle = batch.step["_state"], share * math.pi / 2
        x = angle.cos()[..., None] * steps + angle.sin()[..., None] * noise
        return Renoised(self.k[state] + (self.w[state] @ x[..., None])[..., 0], angle.cos(), angle.sin())


class GaussianNoise(nn.Module):
    """What is right of behaviour N(m, S), the same in every state: eps = b (a^2 S + b^2)^-1 (x - a m)."""

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        self.mean, self.covariance = nn.Parameter(mean), nn.Parameter(covariance)

    def renoised(self, batch: Batch, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised:
        a, b = (share * math.pi / 2).cos()[..., None], (share * math.pi / 2).sin()[..., None]
        spread = a[..., None] ** 2 * self.covariance + b[..., None] ** 2 * torch.eye(len(self.mean))
        away = a * steps + b * noise - a * self.mean
        return Renoised(b * torch.linalg.solve(spread, away[..., None])[..., 0], a[..., 0], b[..., 0])


def said(model: Numbers, s: int, x: list[float]) -> list[float]:
    return [
        k + sum(w * y for w, y in zip(row, x, strict=True)) for k, row in zip(model["k"][s], model["w"][s], strict=True)
    ]


def noised(step: list[float], t: float, z: list[float]) -> list[float]:
    a, b = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    return [a * y + b * e for y, e in zip(step, z, strict=True)]


def step_denoising(
    model: Numbers, s: int, step: list[float], t: float, z: list[float]
) -> tuple[float, list[float], list[list[float]]]:
    """Value, derivatives by k and W."""
    x = noised(step, t, z)
    gap = [e - n for e, n in zip(said(model, s, x), z, strict=True)]
    by_k = [2 * g / len(z) for g in gap]
    return sum(g * g for g in gap) / len(z), by_k, [[g * y for y in x] for g in by_k]


def score_of_behaviour(
    policy: Numbers, model: Numbers, s: int, t: float, z: list[float], weighting: str, centred: bool
) -> tuple[float, list[float]]:
    """Surrogate value, derivative by the policy's mean, of which the mode is the tanh."""
    mode = [math.tanh(m) for m in policy["mean"][s]]
    a, b = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    w = {"variance": b * b, "one": 1.0, "ratio": a / b}[weighting]
    e = [w * (x - (n if centred else 0.0)) for x, n in zip(said(model, s, noised(mode, t, z)), z, strict=True)]
    value = sum(x * y for x, y in zip(e, mode, strict=True))
    return value, [x * (1 - y * y) for x, y in zip(e, mode, strict=True)]


REFERENCES: dict[type, Callable[..., Any]] = {StepDenoising: step_denoising, ScoreOfBehaviour: score_of_behaviour}
