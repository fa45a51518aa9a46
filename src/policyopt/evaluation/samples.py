"""Fresh samples of a denoising policy: their mean reward, and how much of the data's variety they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.evaluation.returns import spread_interval
from policyopt.evaluation.statistics import Interval, proportion_interval
from policyopt.ops.random import generator, new_keys

CHUNK = 1024  # chains that are drawn together; a bound on memory only
RESAMPLES = 1000


@dataclass(frozen=True)
class Data:
    """What samples are compared with: recorded samples (N, D), the mode (N,) of each, and the distance to the nearest
    one that 99 % of fresh data have."""

    samples: Tensor
    mode: Tensor
    modes: int
    near: float

    @classmethod
    def of(cls, samples: Tensor, mode: Tensor, modes: int) -> Data:
        """From samples of which one half judges how far apart fresh data are."""
        half = len(samples) // 2
        distance = torch.cdist(samples[half:], samples[:half]).amin(1)
        return cls(samples[:half], mode[:half], modes, float(distance.quantile(0.99)))

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The mode of the nearest recorded sample, and whether that is near."""
        distance, index = torch.cdist(points, self.samples.to(points)).min(1)
        return self.mode[index], distance <= self.near


@dataclass(frozen=True)
class Fresh:
    """reward: mean. modes: exp(entropy of the shares of modes) / number of modes, 1 if all are as frequent. near: share
    of samples as near to recorded ones as fresh data are."""

    intervals: Mapping[str, Interval]
    samples: Tensor  # (count, D)

    def summary(self) -> dict[str, Any]:
        """Estimates under the names of summary.json, and their intervals."""
        values: dict[str, Any] = {"samples": len(self.samples)}
        for name, interval in self.intervals.items():
            values[name] = interval.estimate
            values[f"{name}_interval"] = [interval.low, interval.high]
        return values


def fresh(policy: Any, world: Any, engine: Any, seed: int, count: int, data: Data | None = None) -> Fresh:
    """`count` samples, of the world's tasks in turn. Equal arguments give equal samples."""
    device = next(policy.parameters()).device
    keys = new_keys(count, generator(seed, "evaluation"))
    samples, rewards = [], []
    for ids in torch.arange(count).split(CHUNK):
        batch = world.start(world.tasks((ids % world.size).to(device)))
        batch = batch.with_rows({"temperature": torch.ones(len(ids), device=device)})
        with torch.no_grad():
            batch = engine(policy, world, batch, keys[ids].to(device), 1.0, 0)
            rewards += [] if world.reward is None else [world.grade(batch).double().cpu()]
        samples.append(batch.row["_latent"].cpu())
    found, points = {}, torch.cat(samples)
    if rewards:
        found["reward"] = spread_interval(torch.cat(rewards).numpy())
    if data is not None:
        mode, near = data.nearest(points)
        found["modes"] = _variety(mode.numpy(), data.modes, seed)
        found["near_data"] = proportion_interval(int(near.sum()), count)
    return Fresh(found, points)


def variety(counts: np.ndarray) -> np.ndarray:
    """(..., K) counts of modes -> exp(entropy of their shares) / K."""
    share = counts / counts.sum(-1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(-1)
    return np.exp(entropy) / counts.shape[-1]


def _variety(mode: np.ndarray, modes: int, seed: int) -> Interval:
    """With the percentile interval of resampled counts (a multinomial of the observed shares)."""
    counts = np.bincount(mode, minlength=modes)
    drawn = np.random.default_rng(seed).multinomial(len(mode), counts / len(mode), RESAMPLES)
    low, high = np.quantile(variety(drawn), [0.025, 0.975])
    estimate = float(variety(counts))
    # Resampling loses modes, so the interval can miss the estimate; it must hold it.
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate), 0.95)


def grid(images: Tensor, columns: int = 4) -> Tensor:
    """(N, C, H, W) in -1..1 -> one picture (rows * H, columns * W, C) in 0..1."""
    count = columns * math.ceil(len(images) / columns)
    padded = torch.cat([images, -torch.ones(count - len(images), *images.shape[1:])])
    picture = padded.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return ((picture + 1) / 2).clamp(0, 1)


def colours(images: Tensor) -> Tensor:
    """Images (N, C, H, W) of three channels; of others the first is shown in grey."""
    return images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
