"""What a policy's samples are worth to those who judge them, and how far it has gone from another: by held-out task.

The classical picture of learning from preferences: the gold reward, which the preferences were made by, against the
proxy that was learned from them, by divergence from the policy that was begun with (Gao et al. 2023, arXiv 2210.10760).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policyopt.evaluation.pairs import better_and_worse
from policyopt.evaluation.passes import CHUNK, sampled
from policyopt.evaluation.reward_models import pair_quality
from policyopt.ops.random import generator, new_keys
from policyopt.types import Batch

GOLD, KL, LENGTH = "gold reward", "KL to the start", "length"


def proxy(name: str) -> str:
    """The column of a reward model."""
    return f"proxy reward ({name})"


@dataclass(frozen=True)
class Samples:
    """Prompts with answers, side by side by task, and the world's grade of each (nan: none)."""

    texts: list[tuple[str, str]]
    gold: list[float]


def samples_of(policy: Any, world: Any, engine: Any, seed: int, samples: int) -> Samples:
    """`samples` answers to every task."""
    ids = torch.arange(world.size).repeat_interleave(samples)
    keys = new_keys(len(ids), generator(seed, "candidates"))
    texts: list[tuple[str, str]] = []
    gold: list[float] = []
    for begin in range(0, len(ids), CHUNK):
        part = slice(begin, begin + CHUNK)
        batch = sampled(policy, world, engine, ids[part], keys[part], 1.0)
        prompts = [world.decode(world.prompts[task]) for task in batch.row["task"].tolist()]
        texts += list(zip(prompts, world.texts(batch), strict=True))
        gold += world.grade(batch).double().tolist()
    return Samples(texts, gold)


def rewarded(
    policy: Any,
    world: Any,
    engine: Any,
    seed: int,
    samples: int,
    rewards: Mapping[str, Any],
    start: Any = None,
) -> dict[str, NDArray[np.float64]]:
    """Means over a task's samples, (N,) each, by what is measured: the world's grade if it has a judge, what every
    reward model says, the number of steps, and, if `start` is given, sum_t (log pi - log pi_start) of the samples, an
    unbiased estimate of KL(pi || pi_start) of whole rows in nats. nan where the judge could score no sample of a task.

    Equal arguments give equal samples, whatever happened before.
    """
    ids = torch.arange(world.size).repeat_interleave(samples)
    keys = new_keys(len(ids), generator(seed, "rewarded"))
    found: dict[str, list[Tensor]] = {}
    for begin in range(0, len(ids), CHUNK):
        part = slice(begin, begin + CHUNK)
        batch = sampled(policy, world, engine, ids[part], keys[part], 1.0)
        for name, values in _measured(batch, policy, world, rewards, start).items():
            found.setdefault(name, []).append(values.double().cpu())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return {name: np.nanmean(torch.cat(x).view(world.size, samples).numpy(), 1) for name, x in found.items()}


def _measured(batch: Batch, policy: Any, world: Any, rewards: Mapping[str, Any], start: Any) -> dict[str, Tensor]:
    found = {GOLD: world.grade(batch)} if world.judge is not None else {}
    with torch.no_grad():
        found |= {proxy(name): model.worth(batch) for name, model in rewards.items()}
        if start is not None:
            gap = policy.score(batch, None).logp.double() - start.score(batch, None).logp.double()
            found[KL] = gap.where(batch.own, 0).sum(1)
    return {**found, LENGTH: batch.lengths}


def on_pairs(model: Any, world: Any) -> dict[str, Any]:
    """How a reward model or a preference model orders the recorded pairs of a world (see `pair_quality`)."""
    device = next(model.parameters(), torch.zeros(0)).device  # a judge behind an API has no parameters
    odds: list[Tensor] = []
    for ids in torch.arange(world.size, device=device).split(CHUNK):
        rows = world.recorded_pairs(world.tasks(ids).with_rows({"group": ids}))
        better, worse = better_and_worse(rows.row["pair"], rows.row["rank"], rows.row["label"])
        with torch.no_grad():
            if hasattr(model, "compare"):
                odds.append(model.compare(rows, better, worse))
            else:
                worth = model.worth(rows)
                odds.append(worth[better] - worth[worse])
    return pair_quality(torch.cat(odds).double().cpu())
