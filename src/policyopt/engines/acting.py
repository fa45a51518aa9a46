"""A policy choosing the steps of environments side by side, and remembering what its columns need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.ops.random import uniforms
from policyopt.types import Batch

MEMORY, EXPLORATION = "_memory", "_exploration"
_CHUNK = 512  # steps whose random numbers are computed at once, at most


def stream_uniforms(keys: Tensor, first: int, steps: int, width: int) -> Tensor:
    """(steps, N, width) the numbers that every stream uses at positions first ... first + steps - 1."""
    count = len(keys)
    position = torch.arange(first, first + steps, device=keys.device).repeat_interleave(count)
    return uniforms(keys.repeat(steps), position, width).view(steps, count, width)


class Acting:
    """By `policy.next`, for any policy.

    rows: what the policy reads beside the observations, a row (T = 0) per environment; with `_memory` where the policy
    has one. temperature 0: the mode. record: keep steps, densities and memories.
    """

    def __init__(self, policy: Any, rows: Batch, keys: Tensor, temperature: float = 1.0, *, record: bool = True):
        self.policy, self.rows, self.keys = policy, rows, keys
        self.temperature, self.record, self.chunk = temperature, record, _CHUNK
        self.empty = _empty_memory(policy, rows)
        if self.empty is not None and MEMORY not in rows.row:
            self.rows = rows.with_rows({MEMORY: self.empty})
        self.steps: list[Tensor] = []
        self.memory: list[Tensor] = []  # (N, H) of all environments, before each step
        self._logp: list[Tensor] = []
        self._numbers: Any = None

    def step(self, t: int, now: np.ndarray, live: np.ndarray | None = None) -> Tensor:
        """(N, ...) raw steps at the observations `now` (N, ...); live: the environments they belong to, None: all."""
        rows = self.rows if live is None else self.rows[live]
        rows = rows.with_rows({"_obs": torch.from_numpy(now.copy()).to(self.keys.device)})
        dist = self.policy.next(rows)
        if self.temperature == 0:
            step = dist.mode()
        else:
            dist = dist if self.temperature == 1 else dist.tempered(rows.row["temperature"])
            step = dist.sample(self._uniform(t, live, dist.width))
        if self.record:
            self.steps.append(step)
            self._logp.append(dist.log_prob(step))
        self._advance(rows, step, live)
        return step

    def end(self, slots: list[int]) -> Tensor | None:
        """(n, H) the memory of environments whose episodes ended; it is empty from here on."""
        if self.empty is None:
            return None
        memory = self.rows.row[MEMORY].clone()
        final = memory[slots].clone()
        memory[slots] = self.empty[slots]
        self.rows = self.rows.with_rows({MEMORY: memory})
        return final

    def taken(self) -> tuple[list[Tensor], list[Tensor]]:
        """The raw steps and their log-probabilities, an entry per call of `step`, on the CPU."""
        return [step.cpu() for step in self.steps], [logp.cpu() for logp in self._logp]

    def _uniform(self, t: int, live: np.ndarray | None, width: int) -> Any:
        if t % self.chunk == 0 or self._numbers is None:
            self._numbers = self._noise(stream_uniforms(self.keys, t - t % self.chunk, self.chunk, width))
        found = self._numbers[t % self.chunk]
        return found if live is None else found[live]

    def _noise(self, uniform: Tensor) -> Any:
        return uniform

    def _advance(self, rows: Batch, step: Tensor, live: np.ndarray | None) -> None:
        if self.empty is None:
            return
        memory = self.rows.row[MEMORY]
        if self.record:
            self.memory.append(memory)
        moved = self.policy.advance(rows, step)[MEMORY]
        if live is not None:
            memory = memory.clone()
            memory[live] = moved
            moved = memory
        self.rows = self.rows.with_rows({MEMORY: moved})


class FastActing(Acting):
    """The same in numpy, on the policy's fast path; densities are computed for all steps at once."""

    def __init__(
        self, fast: Any, policy: Any, rows: Batch, keys: Tensor, temperature: float = 1.0, *, record: bool = True
    ):
        super().__init__(policy, rows, keys, temperature, record=record)
        self._fast = fast
        level = rows.row.get(EXPLORATION)
        self._levels = None if level is None else level.cpu().numpy()
        self._outs: list[np.ndarray] = []
        self._live: list[np.ndarray | None] = []
        self._width = 0

    def step(self, t: int, now: np.ndarray, live: Any = None) -> Tensor:
        out = self._fast(now)
        level = 0.0 if self._levels is None else self._levels if live is None else self._levels[live]
        if self.temperature == 0:
            noise = None
        else:
            self._width = self._width or self._density(out, level).width
            noise = self._uniform(t, live, self._width)
        step = torch.from_numpy(np.ascontiguousarray(self._fast.pick(out, noise, level)))
        if self.record:
            self.steps.append(step)
            self._outs.append(out)
            self._live.append(live)
        return step

    def taken(self) -> tuple[list[Tensor], list[Tensor]]:
        if not self.steps:
            return [], []
        levels: Any = 0.0
        if self._levels is not None:
            levels = np.concatenate([self._levels if live is None else self._levels[live] for live in self._live])
        logp = self._density(np.concatenate(self._outs), levels).log_prob(torch.cat(self.steps).to(self.keys.device))
        return self.steps, list(logp.cpu().split([len(step) for step in self.steps]))

    def _density(self, out: np.ndarray, level: Any) -> Any:
        levels = torch.as_tensor(np.broadcast_to(level, out.shape[:-1]).copy(), device=self.keys.device)
        return self.policy.distribution_of(torch.from_numpy(out).to(self.keys.device), levels)

    def _noise(self, uniform: Tensor) -> Any:
        return self._fast.noise(uniform)


def acting(
    policy: Any, rows: Batch, keys: Tensor, temperature: float = 1.0, *, record: bool = True, most: int | None = None
) -> Acting:
    """The fastest way a policy has at this temperature. most: steps it will take at most, if known."""
    fast = policy.fast() if temperature in (0, 1) and hasattr(policy, "fast") else None
    if fast is None:
        made = Acting(policy, rows, keys, temperature, record=record)
    else:
        made = FastActing(fast, policy, rows, keys, temperature, record=record)
    made.chunk = min(most or _CHUNK, _CHUNK)
    return made


def _empty_memory(policy: Any, rows: Batch) -> Tensor | None:
    begun = policy.begin(rows) if hasattr(policy, "begin") else rows
    return begun.row.get(MEMORY)
