"""Cases of rewards in units of the spread of their discounted sums, each row an environment of its own."""

import math

from vector_cases import SIGNED, UNEVEN, case, draw

FULL = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def scaled(rewards, mask, start, gamma, epsilon, clip):
    """Step by step over rows side by side, from the moments of all sums so far."""
    mean, variance, count = start["mean"], start["variance"], start["count"]
    out = [[0.0 for _ in row] for row in rewards]
    sums = [0.0] * len(rewards)
    for t in range(len(rewards[0])):
        live = [b for b in range(len(rewards)) if mask[b][t]]
        for b in live:
            sums[b] = gamma * sums[b] + rewards[b][t]
            # Welford's update, a sum at a time; the order within a step does not change the moments after it.
            delta, total = sums[b] - mean, count + 1
            variance = (count * variance + delta**2 * count / total) / total
            mean, count = mean + delta / total, total
        for b in live:
            out[b][t] = max(-clip, min(clip, rewards[b][t] / math.sqrt(variance + epsilon)))
    return out


def cases():
    made = []
    fresh = {"mean": 0.0, "variance": 1.0, "count": 1e-4}
    known = {"mean": 0.5, "variance": 2.25, "count": 40.0}
    for name, mask, start, gamma, epsilon, clip in (
        ("before any statistics", FULL, fresh, 0.99, 1e-8, 10.0),
        ("rows of uneven length", UNEVEN, fresh, 0.5, 1e-8, 10.0),
        ("statistics of earlier rounds", UNEVEN, known, 0.9, 0.1, 10.0),
        ("clipped", FULL, known, 0.9, 1e-8, 0.3),
        ("a single reward", [[1, 0]], known, 0.9, 1e-8, 10.0),
    ):
        rewards = draw(f"reward/scaled_reward/{name}", mask, *SIGNED)
        expect = scaled(rewards, mask, start, gamma, epsilon, clip)
        inputs = {"rewards": rewards, "mask": mask, **({} if start is fresh else {"cells": {"reward_scale": start}})}
        options = {"gamma": gamma, "epsilon": epsilon, "clip": clip}
        made.append(case("reward", "scaled_reward", name, inputs, {"rewards": expect}, options=options))
    return made
