"""Rewards in units of the spread of their discounted sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.types import Batch, Round

REWARD_SCALE = Cell("reward_scale", lambda: {"mean": 0.0, "variance": 1.0, "count": 1e-4, "sums": torch.zeros(0)})
"""Moments of the discounted sums so far, and the sum that every environment is at (0 where an episode begins)."""


def discounted_sums(rewards: np.ndarray, before: np.ndarray, gamma: float) -> np.ndarray:
    """(R, T): g_t = r_t + gamma g_{t-1} with g_{-1} = before (R,), by doubling the reach of the sum."""
    sums, reach = rewards.copy(), 1
    while reach < rewards.shape[1]:
        sums[:, reach:] += gamma**reach * sums[:, :-reach].copy()
        reach *= 2
    return sums + before[:, None] * gamma ** np.arange(1, rewards.shape[1] + 1)


@dataclass(frozen=True)
class _Sums:
    """Discounted sums of a round's rows, and when each step was taken."""

    values: np.ndarray  # (R, T)
    valid: np.ndarray  # (R, T)
    time: np.ndarray  # (R, T) steps of the row's environment since the round began
    env: np.ndarray  # (R,)
    last: Mapping[int, float]  # the sum each environment is at after the round

    def spread(self, cell: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, float]]:
        """(R, T) the variance of all sums up to the step's time, and the moments after the last."""
        time, values = self.time[self.valid], self.values[self.valid] - cell["mean"]
        count = cell["count"] + np.bincount(time).cumsum()
        first = np.bincount(time, values).cumsum() / count
        second = (cell["count"] * cell["variance"] + np.bincount(time, values**2).cumsum()) / count
        variance = np.maximum(second - first**2, 0.0)
        spread = np.ones_like(self.values)
        spread[self.valid] = variance[time]
        moments = {"mean": cell["mean"] + first[-1], "variance": variance[-1], "count": count[-1]}
        return spread, {name: float(value) for name, value in moments.items()}


@dataclass(frozen=True)
class ScaledReward(Part):
    """Divides rewards by the running standard deviation of the discounted sum of rewards, per environment.

    As Stable-Baselines3's VecNormalize: at every time step the sums of all environments enter the statistics before
    they are used, and a sum ends with its episode. (gymnasium.wrappers.NormalizeReward differs at the ends: it forgets
    the sum before the last reward of a terminated episode and keeps it beyond a truncated one.) Rewards are divided
    only, never centred, and clipped to +-clip. The statistics live in a cell, written after the round, so evaluations
    can not change them. Rows of streams continue their environment's sum; other rows begin at 0.
    """

    gamma: float = 0.99
    epsilon: float = 1e-8
    clip: float | None = 10.0

    formula = "r_t / sqrt(Var[sum_k gamma^k r_(t-k)] + epsilon), clipped"
    writes = ("unscaled",)

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise CompositionError(f"gamma must be in 0..1, got {self.gamma}")
        if self.epsilon <= 0 or (self.clip is not None and self.clip <= 0):
            raise CompositionError(f"epsilon and clip must be above 0, got {self.epsilon} and {self.clip}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        raw = batch.step["reward"]
        if not batch.valid.any():
            return batch.with_steps({"unscaled": raw})
        variance, _ = self._sums(ctx[REWARD_SCALE], batch, raw).spread(ctx[REWARD_SCALE])
        scaled = raw / torch.from_numpy(np.sqrt(variance + self.epsilon)).to(raw)
        if self.clip is not None:
            scaled = scaled.clamp(-self.clip, self.clip)
        return batch.with_steps({"reward": torch.where(batch.valid, scaled, 0.0).to(raw.dtype), "unscaled": raw})

    def after(self, ctx: Context, done: Round) -> None:
        if not done.judged.valid.any():
            return
        cell = ctx[REWARD_SCALE]
        sums = self._sums(cell, done.judged, done.judged.step["unscaled"])
        kept = torch.zeros(max(sums.last, default=-1) + 1, dtype=torch.float64)
        for env, value in sums.last.items():
            kept[env] = value
        ctx[REWARD_SCALE] = {**sums.spread(cell)[1], "sums": kept}

    def _sums(self, cell: Mapping[str, Any], batch: Batch, raw: Tensor) -> _Sums:
        valid = batch.valid.cpu().numpy()
        rewards = np.where(valid, raw.double().cpu().numpy(), 0.0)
        if "_episode" not in batch.row:  # whole episodes: every row is an environment of its own
            rows = np.arange(len(batch))
            sums = discounted_sums(rewards, np.zeros(len(batch)), self.gamma)
            return _Sums(sums, valid, valid.cumsum(1) - 1, rows, {})
        env, episode, begun = (batch.row[name].cpu().numpy() for name in ("_env", "_episode", "_before"))
        ended = batch.row["episode_length"].cpu().numpy() > 0
        carried, passed, last, lengths = np.zeros(len(batch)), np.zeros(len(batch), dtype=np.int64), {}, valid.sum(1)
        order = np.lexsort((begun, episode, env))
        newest = dict(zip(env[order].tolist(), order.tolist(), strict=True))
        so_far: dict[int, int] = {}
        for row in order.tolist():
            slot = int(env[row])
            if slot not in so_far and begun[row] and slot < len(cell["sums"]):
                carried[row] = cell["sums"][slot]
            passed[row] = so_far.get(slot, 0)
            so_far[slot] = int(passed[row] + lengths[row])
        sums = discounted_sums(rewards, carried, self.gamma)
        for slot, row in newest.items():
            last[slot] = 0.0 if ended[row] else float(sums[row, lengths[row] - 1])
        return _Sums(sums, valid, passed[:, None] + valid.cumsum(1) - 1, env, last)
