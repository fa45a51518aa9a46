"""Returns of a policy on held-out episodes, with intervals over episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policyopt.engines.control import episodes
from policyopt.evaluation.statistics import Interval, mean_interval
from policyopt.worlds.environments import UnsuitableEnvironmentError


@dataclass(frozen=True)
class Returns:
    """greedy: undiscounted return of the most likely actions; sampled: of the policy as it is. length: mean steps."""

    greedy: Interval
    sampled: Interval
    greedy_length: float
    sampled_length: float
    episodes: int

    def summary(self) -> dict[str, Any]:
        """Estimates under the names of summary.json, and their intervals."""
        values: dict[str, Any] = {}
        for name, interval in (("return_greedy", self.greedy), ("return_sampled", self.sampled)):
            values[name] = interval.estimate
            values[f"{name}_interval"] = [interval.low, interval.high]
        lengths = {"length_greedy": self.greedy_length, "length_sampled": self.sampled_length}
        return {**values, **lengths, "episodes": self.episodes}


def returns(policy: Any, world: Any, seed: int, count: int) -> Returns:
    """Over `count` episodes of an environment, with the same initial states for both. Equal arguments give equal
    numbers, and neither the policy nor the run's own environments change. UnsuitableEnvironmentError: a return that is
    not finite."""
    greedy, steps = episodes(policy, world, count, seed, greedy=True)
    sampled, sampled_steps = episodes(policy, world, count, seed)
    lost = int((~torch.stack((greedy, sampled)).isfinite()).any(0).sum())
    if lost:
        raise UnsuitableEnvironmentError(
            f"rewards must be finite numbers, and {lost} of {count} held-out episodes have a return that is none; mend "
            "the environment's step, or the policy has diverged: train again with a lower learning rate"
        )
    return Returns(
        spread_interval(greedy.numpy()),
        spread_interval(sampled.numpy()),
        float(steps.double().mean()),
        float(sampled_steps.double().mean()),
        count,
    )


def spread_interval(values: np.ndarray) -> Interval:
    """`mean_interval` of numbers without known bounds; of equal ones (a task that is solved every time) that number."""
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return Interval(float(values[0]), float(values[0]), float(values[0]), 0.95)
    return mean_interval(values)
