"""Returns of a policy on held-out episodes, with intervals over episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.engines.control import episodes
from policyopt.evaluation.statistics import Interval, mean_interval


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
    numbers, and neither the policy nor the run's own environments change."""
    greedy, steps = episodes(policy, world, count, seed, greedy=True)
    sampled, sampled_steps = episodes(policy, world, count, seed)
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
