"""Acting in environments: one loop over steps into arrays made beforehand, rows cut out of them afterwards.

Equals `engines.plain`: the n-th step of a row uses the n-th numbers of the row's own stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.engines.plain import generate
from policyopt.ops.random import uniforms
from policyopt.ops.streams import State, episode_seed, state_after
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch

MEMORY, EXPLORATION = "_memory", "_exploration"


class ControlEngine:
    """Whole episodes (`Engine`), and streams: steps of environments that go on from round to round."""

    def __call__(
        self, policy: Any, world: Any, batch: Batch, keys: Tensor, temperature: float, version: int, **pause: int
    ) -> Batch:
        return generate(policy, world, batch, keys, temperature, version, **pause)

    def stream(
        self,
        policy: Any,
        world: Any,
        state: State,
        horizon: int,
        keys: Tensor,
        version: int,
        exploration: float = 0.0,
    ) -> Batch:
        """`horizon` steps of len(keys) environments that go on from `state`, as fragments of episodes.

        Rows are in the order of environments, then of time. A row that the horizon cut is TRUNCATED like one that a
        limit ended; `episode_length` is above 0 only where the episode ended.
        """
        streams = world.streams(state, len(keys))
        actor = _acting(policy, streams, keys, horizon, exploration)
        trace = _Trace(horizon, streams.now, streams.episode, streams.before, streams.earned)
        for t in range(horizon):
            trace.obs[t] = streams.now
            trace.waiting[t] = streams.slots.waiting()
            step = actor.step(t, streams.now)
            reward, terminated, truncated = streams.slots.step(world.sent(step), streams.now)
            trace.reward[t], trace.terminated[t] = reward, terminated
            if terminated.any() or truncated.any():
                ended = (terminated | truncated).nonzero()[0].tolist()
                trace.end(t, ended, streams.now)
                actor.end(t, ended)
                streams.episode[ended] += 1
                streams.begin(ended)
        trace.now = streams.now
        batch = trace.cut(actor, world, streams.seed, version).to(keys.device)
        streams.stand(state_after(state, batch))
        return batch


class _Acting:
    """A policy choosing the steps of environments side by side, remembering what its columns need. By `policy.next`."""

    def __init__(self, policy: Any, streams: Any, keys: Tensor, horizon: int, exploration: float):
        self.policy, self.horizon, self.keys = policy, horizon, keys
        count = len(keys)
        rows = empty_batch(Tasks(torch.zeros(count, dtype=torch.int64, device=keys.device)))
        rows = rows.with_rows({"_obs": torch.from_numpy(streams.now.copy()).to(keys.device)})
        self.exploration = torch.full((count,), float(exploration), device=keys.device) if exploration else None
        if self.exploration is not None:
            rows = rows.with_rows({EXPLORATION: self.exploration})
        rows = policy.begin(rows) if hasattr(policy, "begin") else rows
        self.fresh = rows.row.get(MEMORY)
        if streams.memory is not None and self.fresh is not None:
            rows = rows.with_rows({MEMORY: streams.memory.to(self.fresh)})
        self.rows = rows
        self.numbers: Any = None
        self.steps: list[Tensor] = []
        self._logp: list[Tensor] = []
        self.memory: list[Tensor] = []
        self.final: dict[tuple[int, int], Tensor] = {}

    def step(self, t: int, now: np.ndarray) -> Tensor:
        """(N, ...) raw steps."""
        rows = self.rows.with_rows({"_obs": torch.from_numpy(now.copy()).to(self.keys.device)})
        dist = self.policy.next(rows)
        if self.numbers is None:
            self.numbers = horizon_uniforms(self.keys, self.horizon, dist.width)
        step = dist.sample(self.numbers[t])
        self.steps.append(step)
        self._logp.append(dist.log_prob(step))
        if self.fresh is not None:
            self.memory.append(rows.row[MEMORY])
            rows = rows.with_rows(self.policy.advance(rows, step))
        self.rows = rows
        return step

    def end(self, t: int, slots: list[int]) -> None:
        """Episodes ended with step t: their memory is empty again."""
        if self.fresh is None:
            return
        memory = self.rows.row[MEMORY].clone()
        for slot in slots:
            self.final[t, slot] = memory[slot].clone()
        memory[slots] = self.fresh[slots]
        self.rows = self.rows.with_rows({MEMORY: memory})

    def taken(self) -> tuple[Tensor, Tensor]:
        """The raw steps (H, N, ...) and their log-probabilities (H, N)."""
        return torch.stack(self.steps).cpu(), torch.stack(self._logp).cpu()


class _FastActing(_Acting):
    """The same in numpy, on the policy's fast path; densities are computed for all steps at once."""

    def __init__(self, policy: Any, streams: Any, keys: Tensor, horizon: int, exploration: float):
        super().__init__(policy, streams, keys, horizon, exploration)
        self._fast = policy.fast()
        self._outs: list[np.ndarray] = []
        self._level = float(exploration)

    def step(self, t: int, now: np.ndarray) -> Tensor:
        out = self._fast(now)
        if self.numbers is None:
            width = self.policy.distribution_of(torch.as_tensor(out, device=self.keys.device)).width
            self.numbers = self._fast.noise(horizon_uniforms(self.keys, self.horizon, width))
        step = torch.from_numpy(self._fast.pick(out, self.numbers[t], self._level))
        self.steps.append(step)
        self._outs.append(out)
        return step

    def taken(self) -> tuple[Tensor, Tensor]:
        steps = torch.stack(self.steps)
        outs = torch.from_numpy(np.stack(self._outs)).to(self.keys.device)
        dist = self.policy.distribution_of(outs, self.exploration)
        return steps, dist.log_prob(steps.to(self.keys.device)).cpu()


def _acting(policy: Any, streams: Any, keys: Tensor, horizon: int, exploration: float) -> _Acting:
    made = policy.fast() if hasattr(policy, "fast") else None
    return (_Acting if made is None else _FastActing)(policy, streams, keys, horizon, exploration)


def horizon_uniforms(keys: Tensor, horizon: int, width: int) -> Tensor:
    """(H, N, width) the numbers that every stream uses at positions 0 ... H - 1."""
    count = len(keys)
    position = torch.arange(horizon, device=keys.device).repeat_interleave(count)
    return uniforms(keys.repeat(horizon), position, width).view(horizon, count, width)


class _Trace:
    """What `horizon` steps of N environments led to, (H, N, ...), and the observations that episodes ended with."""

    def __init__(self, horizon: int, now: np.ndarray, episode: np.ndarray, before: np.ndarray, earned: np.ndarray):
        self.now, self.horizon, self.count = now, horizon, len(now)
        self.episode, self.before, self.earned = episode.copy(), before.copy(), earned.copy()
        shape = (horizon, len(now))
        self.obs = np.empty((*shape, *now.shape[1:]), dtype=now.dtype)
        self.reward = np.zeros(shape)
        self.terminated, self.ended, self.waiting = (np.zeros(shape, dtype=bool) for _ in range(3))
        self.final: dict[tuple[int, int], np.ndarray] = {}

    def end(self, t: int, slots: list[int], now: np.ndarray) -> None:
        self.ended[t, slots] = True
        for slot in slots:
            self.final[t, slot] = now[slot].copy()

    def pieces(self) -> _Pieces:
        """Maximal runs of steps of one environment and episode, in the order of environments, then of time."""
        stops = self.ended | self.waiting  # a waiting step is a run of its own, which is left out
        stops[:-1] |= self.waiting[1:]
        stops[-1] = True
        slot, last = stops.T.nonzero()
        first = np.concatenate([[0], last[:-1] + 1])
        first[np.concatenate([[True], slot[1:] != slot[:-1]])] = 0
        taken = ~self.waiting[first, slot]
        return _Pieces(slot[taken], first[taken], last[taken])

    def cut(self, actor: _Acting, world: Any, seed: int, version: int) -> Batch:
        """One row per run of steps."""
        at = self.pieces()
        index, inside = at.index()
        own = torch.from_numpy(inside)

        def steps(column: Tensor | np.ndarray) -> Tensor:
            """(H, N, ...) -> (R, T, ...), zero beyond a row's end."""
            found = torch.as_tensor(column)[index, at.slot[:, None]]
            found[~own] = 0
            return found

        ended = self.ended[at.last, at.slot]
        row = self._rows(at, ended, seed)
        taken, logp = actor.taken()
        step = {
            "kind": own.to(torch.uint8) * int(StepKind.OWN),
            "train": own,
            "behaviour": steps(logp).to(torch.get_default_dtype()),
            "reward": world.clipped(steps(self.reward)).to(torch.get_default_dtype()),
            "turn": torch.zeros(own.shape, dtype=torch.int64),
            "version": own.long() * version,
            "_obs": steps(self.obs),
            "_action": steps(taken),
        }
        if actor.fresh is not None:
            step[MEMORY] = steps(torch.stack(actor.memory).cpu())
            latest = actor.rows.row[MEMORY]
            after = [
                actor.final.get((t, n), latest[n]) if t == self.horizon - 1 or gone else actor.memory[t + 1][n]
                for t, n, gone in zip(at.last, at.slot, ended, strict=True)
            ]
            row[MEMORY] = torch.stack(after).cpu()
        if actor.exploration is not None:
            row[EXPLORATION] = actor.exploration.cpu()[at.slot]
        return Batch(row, step)

    def _rows(self, at: _Pieces, ended: np.ndarray, seed: int) -> dict[str, Tensor]:
        same = at.slot[1:] == at.slot[:-1]
        episodes, before, earned = np.zeros(len(at.slot), dtype=np.int64), np.zeros(len(at.slot), dtype=np.int64), []
        sums = [self.reward[first : last + 1, slot].sum() for slot, first, last in at]
        for row, slot in enumerate(at.slot):
            goes_on = row > 0 and bool(same[row - 1])
            if not goes_on:
                episode, so_far, gained = self.episode[slot], self.before[slot], self.earned[slot]
            episodes[row], before[row] = episode, so_far
            earned.append(gained + sums[row])
            so_far, gained = so_far + at.lengths[row], earned[row]
            if ended[row]:
                episode, so_far, gained = episode + 1, 0, 0.0
        finals = [self.final[t, n] if (t, n) in self.final else self._obs_after(t, n) for n, _, t in at]
        total, length = torch.tensor(earned, dtype=torch.float64), torch.from_numpy(before + at.lengths)
        gone = torch.from_numpy(ended)
        stopped = torch.from_numpy(self.terminated[at.last, at.slot])
        slot, count = torch.from_numpy(at.slot), len(at.slot)
        return {
            "task": slot.clone(),
            "group": torch.arange(count),
            "source": torch.zeros(count, dtype=torch.int64),
            "finish": torch.where(stopped, int(Finish.STOPPED), int(Finish.TRUNCATED)),
            "scored": torch.ones(count, dtype=torch.bool),
            "temperature": torch.ones(count),
            "_obs": torch.from_numpy(np.stack(finals)),
            "_env": slot,
            "_episode": torch.from_numpy(episodes),
            "_before": torch.from_numpy(before),
            "_seed": torch.tensor([episode_seed(seed, int(n), int(e)) for n, e in zip(slot, episodes, strict=True)]),
            "_earned": total,
            "episode_return": torch.where(gone, total, torch.nan),
            "episode_length": torch.where(gone, length, 0),
        }

    def _obs_after(self, t: int, slot: int) -> np.ndarray:
        return self.now[slot] if t == self.horizon - 1 else self.obs[t + 1, slot]


@dataclass(frozen=True)
class _Pieces:
    """Runs of steps: environment, first and last step (R,)."""

    slot: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.last - self.first + 1

    def __iter__(self) -> Any:
        return zip(self.slot.tolist(), self.first.tolist(), self.last.tolist(), strict=True)

    def index(self) -> tuple[np.ndarray, np.ndarray]:
        """(R, T) the step that stands there, and whether the row is that long."""
        offset = np.arange(int(self.lengths.max(initial=0)))
        inside = offset < self.lengths[:, None]
        return np.where(inside, self.first[:, None] + offset, self.last[:, None]), inside
