"""A predictor of durations in front of a frozen generator."""

from __future__ import annotations

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers
from policyopt.policies.tabular import Table
from policyopt.worlds.sequences import SequenceWorld

BINS, CONTEXTS, OFF = 301, 4, 25


def generated(centre: Tensor, steps: Tensor, noise: Tensor, std: float = 0.2) -> Tensor:
    """(N, 2) samples of the exact flow of N(centre, std^2), run for `steps` (N,) Euler steps from noise (N, 2). At
    level s the velocity is E[eps | x] - E[x_0 | x] = ((s - (1 - s) std^2) / var) (x - (1 - s) centre) - centre."""
    x = noise
    for k in range(int(steps.max())):
        s = (1 - k / steps).clamp(min=0)[:, None].to(x)
        var = (1 - s) ** 2 * std**2 + s**2
        velocity = (s - (1 - s) * std**2) / var * (x - (1 - s) * centre) - centre
        x = torch.where((k < steps)[:, None], x - velocity / steps[:, None].to(x), x)
    return x


def duration_of_a_frozen_generator(method: Method, seed: int, rounds: int) -> Outcome:
    """4 contexts with a hidden best duration among 301 bins; the predictor begins as a bump (std 15 bins) 25 bins
    below. A duration gives the generator 1 step for every 50 bins. Reward: -(distance of the bin from the best / 25 +
    3 x 0.1 x distance of the sample from the context's centre).

    value: mean distance of the mode from the best bin.
    """
    rng = numbers(seed, "durations")
    best = torch.randint(60, 280, (CONTEXTS,), generator=rng)
    centre = torch.randn(CONTEXTS, 2, generator=rng)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        bins = strings[:, 0]
        sample = generated(centre[task], 1 + bins // 50, torch.randn(len(task), 2, generator=rng))
        mismatch = (bins - best[task]).abs() / OFF
        return -(mismatch + 3 * 0.1 * (sample - centre[task]).norm(dim=1))

    bump = -((torch.arange(BINS) - (best - OFF)[:, None]) ** 2) / (2 * 15**2)
    start = Table(bump.float())
    before = start.logits.detach().log_softmax(-1)

    def distance(run, done) -> float:
        mode = run.models["policy"].logits.detach().argmax(-1)
        return float((mode - best).abs().float().mean())

    world = SequenceWorld(CONTEXTS, BINS, 1, reward)
    done = fit(method, world, {"policy": start}, rounds, seed, distance)
    now = done.run.models["policy"].logits.detach().log_softmax(-1)  # type: ignore[union-attr]
    notes = {"KL(predictor || start) (nats)": float((now.exp() * (now - before)).sum(1).mean())}
    return done.outcome("distance of the mode from the best bin", notes, score=-done.watched[-1])
