"""Success of a policy on held-out tasks: greedy accuracy, pass@k and mean score, with intervals over tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.evaluation.returns import spread_interval
from policyopt.evaluation.statistics import Interval, pass_at_k, proportion_interval, share_interval
from policyopt.ops.random import generator, new_keys
from policyopt.types import Batch

CHUNK = 2048  # rows that are generated together; a bound on memory only


@dataclass(frozen=True)
class Passes:
    """greedy: share of tasks whose most likely answer is right. pass_at: by k, the chance that one of k samples is
    right. reward: mean score of the samples, each task alike; None where none was scored. unscored: answers that the
    verifier could not judge; they count as wrong, and have no score."""

    greedy: Interval
    pass_at: Mapping[int, Interval]
    reward: Interval | None
    tasks: int
    samples: int
    unscored: int
    answers: tuple[tuple[str, str, float], ...]  # prompt, sampled answer, score of a few

    def summary(self) -> dict[str, Any]:
        """Estimates under the names of summary.json, and their intervals."""
        values: dict[str, Any] = {}
        named = {"greedy": self.greedy, **{f"pass_at_{k}": interval for k, interval in self.pass_at.items()}}
        named |= {} if self.reward is None else {"reward": self.reward}
        for name, interval in named.items():
            values[name] = interval.estimate
            values[f"{name}_interval"] = [interval.low, interval.high]
        return {**values, "tasks": self.tasks, "samples": self.samples, "unscored": self.unscored}


def pass_counts(samples: int) -> list[int]:
    """The k of pass@k that so many samples are evaluated by."""
    return sorted({1, 8, samples})


def mean_score(scores: np.ndarray) -> Interval | None:
    """Mean over tasks of a task's mean score. scores (tasks, samples), nan where unscored: such samples are left out,
    and tasks that have no other; None if nothing is left."""
    known = ~np.isnan(scores)
    counts = known.sum(1)
    totals = np.where(known, scores, 0.0).sum(1)
    means = totals[counts > 0] / counts[counts > 0]
    return spread_interval(means) if len(means) else None


def passes(
    policy: Any, world: Any, engine: Any, seed: int, samples: int, temperature: float = 1.0, success: float = 1.0
) -> Passes:
    """Evaluate on every task of a world: pass@1, pass@8, pass@samples and mean score. Equal arguments give equal
    answers, whatever happened before."""
    scores, _ = _scores(policy, world, engine, seed, 1, 0.0)
    greedy = (scores[:, 0] >= success).sum()
    sampled, texts = _scores(policy, world, engine, seed, samples, temperature)
    right = (sampled >= success).sum(1)
    unscored = int(np.isnan(scores).sum() + np.isnan(sampled).sum())
    shown = [(*texts[i * samples], float(sampled[i, 0])) for i in range(min(5, world.size))]
    return Passes(
        greedy=proportion_interval(int(greedy), world.size),
        pass_at={k: share_interval(pass_at_k(right, samples, k)) for k in pass_counts(samples)},
        reward=mean_score(sampled),
        tasks=world.size,
        samples=samples,
        unscored=unscored,
        answers=tuple(shown),
    )


def _scores(
    policy: Any, world: Any, engine: Any, seed: int, samples: int, temperature: float
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Scores (tasks, samples), nan where unscored, and the (prompt, answer) texts in the same order."""
    ids = torch.arange(world.size).repeat_interleave(samples)
    keys = new_keys(len(ids), generator(seed, "evaluation", temperature))
    scores, texts = [], []
    for start in range(0, len(ids), CHUNK):
        part = slice(start, start + CHUNK)
        batch = sampled(policy, world, engine, ids[part], keys[part], temperature)
        scores.append(world.grade(batch).double().cpu().numpy())
        prompts = [world.decode(world.prompts[task]) for task in batch.row["task"].tolist()]
        texts += list(zip(prompts, world.texts(batch), strict=True))
    return np.concatenate(scores).reshape(world.size, samples), texts


def sampled(policy: Any, world: Any, engine: Any, ids: Tensor, keys: Tensor, temperature: float) -> Batch:
    """Finished rows of tasks by id, at one temperature (0: greedy)."""
    device = next(policy.parameters()).device
    batch = world.start(world.tasks(ids.to(device)))
    heat = torch.full((len(batch),), float(temperature), device=device)
    with torch.no_grad():
        return engine(policy, world, batch.with_rows({"temperature": heat}), keys.to(device), temperature, 0)
