"""Returns of a policy on held-out episodes, with intervals over episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policyopt.evaluation.statistics import Interval, mean_interval
from policyopt.ops.random import generator, new_keys


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


def returns(policy: Any, world: Any, engine: Any, seed: int, episodes: int) -> Returns:
    """Over the first episodes of a world, from the same initial states for both. Equal arguments give equal numbers."""
    greedy, steps = _episodes(policy, world, engine, seed, episodes, 0.0)
    sampled, sampled_steps = _episodes(policy, world, engine, seed, episodes, 1.0)
    return Returns(
        spread_interval(greedy), spread_interval(sampled), float(steps.mean()), float(sampled_steps.mean()), episodes
    )


def spread_interval(values: np.ndarray) -> Interval:
    """`mean_interval` of numbers without known bounds; of equal ones (a task that is solved every time) that number."""
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return Interval(float(values[0]), float(values[0]), float(values[0]), 0.95)
    return mean_interval(values)


def _episodes(
    policy: Any, world: Any, engine: Any, seed: int, count: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """(count,) undiscounted returns as the environment gave them, and lengths."""
    device = next(policy.parameters()).device
    rows = world.start(world.tasks(torch.arange(count, device=device)))
    rows = rows.with_rows({"temperature": torch.full((count,), float(temperature), device=device)})
    keys = new_keys(count, generator(seed, "evaluation", temperature)).to(device)
    with torch.no_grad():
        done = engine(policy, world, rows, keys, temperature, 0)
    return done.row["episode_return"].double().cpu().numpy(), done.row["episode_length"].cpu().numpy()
