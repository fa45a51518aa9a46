"""Acting in environments: one loop over steps into arrays made beforehand, rows cut out of them afterwards.

Equals `engines.plain`: the n-th step of a row uses the n-th numbers of the row's own stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.engines.acting import EXPLORATION, MEMORY, Acting, acting
from policyopt.engines.plain import generate
from policyopt.ops.random import derive, generator, new_keys
from policyopt.ops.streams import State, episode_seed, state_after
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch


class ControlEngine:
    """Whole episodes (`Engine`), and streams: steps of environments that go on from round to round."""

    def __call__(
        self, policy: Any, world: Any, batch: Batch, keys: Tensor, temperature: float, version: int, **pause: int
    ) -> Batch:
        """Steps until every row is done. Rows that have steps already, or that pause, take them one by one."""
        if pause or batch.steps or not len(batch):
            return generate(policy, world, batch, keys, temperature, version, **pause)
        actor = acting(policy, batch, keys, temperature)
        episodes = _Episodes(world.environments(batch), batch.row["_obs"].cpu().numpy().copy())
        logs = episodes.run(actor, world)
        world.release(episodes.envs)
        return _whole(batch, actor, episodes, logs, world, version)

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
        actor = acting(policy, _resting(streams.now, keys, exploration, streams.memory), keys, most=horizon)
        trace = _Trace(horizon, streams.now, streams.episode, streams.before, streams.earned)
        for t in range(horizon):
            trace.obs[t] = streams.now
            waiting = streams.slots.waiting()
            trace.waiting[t] = waiting
            step = actor.step(t, streams.now)
            reward, terminated, truncated = streams.slots.step(world.sent(step), streams.now)
            trace.reward[t], trace.terminated[t] = reward, terminated
            if waiting.any():
                actor.end(waiting.nonzero()[0].tolist())  # what it saw there belongs to no episode
            if terminated.any() or truncated.any():
                ended = (terminated | truncated).nonzero()[0].tolist()
                trace.end(t, ended, streams.now, actor.end(ended))
                streams.episode[ended] += 1
                streams.begin(ended)
        trace.now = streams.now
        batch = trace.cut(actor, world, streams.seed if streams.slots.seeded else None, version).to(keys.device)
        streams.stand(state_after(state, batch))
        return batch


def episodes(
    policy: Any, world: Any, count: int, seed: int, *, greedy: bool = False, parallel: int = 32
) -> tuple[Tensor, Tensor]:
    """Returns (count,) float64 and lengths (count,) of whole episodes, for evaluation: rewards as the environment gives
    them, no exploration. greedy: the mode of every step. Changes neither policy nor world nor any stream.

    Episode n depends on (seed, n) only, not on how many run side by side.
    """
    earned, lengths = [], []
    with torch.no_grad():
        for first in range(0, count, parallel):
            rows = range(first, min(first + parallel, count))
            seeds = [derive(seed, "evaluation", row) >> 32 for row in rows]
            keys = torch.cat([new_keys(1, generator(seed, "evaluation", row)) for row in rows])
            batch = world.start(Tasks(torch.zeros(len(rows), dtype=torch.int64), {"_seed": torch.tensor(seeds)}))
            actor = acting(policy, batch, keys, 0.0 if greedy else 1.0, record=False)
            running = _Episodes(world.environments(batch), batch.row["_obs"].cpu().numpy().copy(), record=False)
            running.run(actor, world)
            world.release(running.envs)
            earned.append(torch.from_numpy(running.earned))
            lengths.append(torch.from_numpy(running.lengths))
    return torch.cat(earned), torch.cat(lengths)


class _Episodes:
    """Environments that each run to the end of one episode."""

    def __init__(self, envs: list[Any], now: np.ndarray, *, record: bool = True):
        self.envs, self.now, self.record = envs, now, record
        count = len(envs)
        self.earned, self.lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
        self.finish = np.full(count, int(Finish.RUNNING))
        self.memory: dict[int, Tensor] = {}

    def run(self, actor: Acting, world: Any) -> list[_Log]:
        """What happened at each step, of the environments that still ran."""
        logs, live = [], np.arange(len(self.envs))
        for t in range(2**62):
            if not len(live):
                break
            before = self.now[live]
            step = actor.step(t, before, live)
            reward = self._step(world, step, live)
            if self.record:
                logs.append(_Log(live, before, reward))
            ended = live[self.finish[live] != Finish.RUNNING]
            if len(ended):
                final = actor.end(ended.tolist())
                if final is not None:
                    self.memory.update(zip(ended.tolist(), final, strict=True))
                live = live[self.finish[live] == Finish.RUNNING]
        return logs

    def _step(self, world: Any, step: Tensor, live: np.ndarray) -> np.ndarray:
        sent = world.sent(step)
        reward = np.zeros(len(live))
        for index, (row, action) in enumerate(zip(live.tolist(), world.actions.singles(sent), strict=True)):
            self.now[row], reward[index], terminated, truncated, _ = self.envs[row].step(action)
            if terminated or truncated:
                self.finish[row] = int(Finish.STOPPED if terminated else Finish.TRUNCATED)
        self.earned[live] += reward
        self.lengths[live] += 1
        return reward


@dataclass(frozen=True)
class _Log:
    """One step of the environments `live`."""

    live: np.ndarray
    obs: np.ndarray
    reward: np.ndarray


def _whole(batch: Batch, actor: Acting, ran: _Episodes, logs: Sequence[_Log], world: Any, version: int) -> Batch:
    """Finished rows from what happened at each step."""
    rows, steps = len(batch), len(logs)
    own = torch.arange(steps) < torch.from_numpy(ran.lengths)[:, None]

    def together(values: Sequence[Any], *, everywhere: bool = False) -> Tensor:
        """An entry per step, of the rows that took it (or of all) -> (B, T, ...), zero beyond a row's end."""
        found = torch.as_tensor(values[0])
        found = found.new_zeros((rows, steps, *found.shape[1:]))
        for t, (log, value) in enumerate(zip(logs, values, strict=True)):
            live = torch.from_numpy(log.live)
            found[live, t] = torch.as_tensor(value)[live] if everywhere else torch.as_tensor(value)
        return found

    taken, logp = actor.taken()
    wide = torch.get_default_dtype()
    step = {
        "kind": own.to(torch.uint8) * int(StepKind.OWN),
        "train": own,
        "behaviour": together(logp).to(wide),
        "reward": world.clipped(together([log.reward for log in logs])).to(wide),
        "turn": torch.zeros(own.shape, dtype=torch.int64),
        "version": own.long() * version,
        "_obs": together([log.obs for log in logs]),
        "_action": together(taken),
    }
    earned = torch.from_numpy(ran.earned)
    row = {
        "finish": torch.from_numpy(ran.finish),
        "_obs": torch.from_numpy(ran.now),
        "_earned": earned,
        "episode_return": earned.clone(),
        "episode_length": torch.from_numpy(ran.lengths),
    }
    if actor.empty is not None:
        step[MEMORY] = together([memory.cpu() for memory in actor.memory], everywhere=True)
        row[MEMORY] = torch.stack([ran.memory[n] for n in range(rows)]).cpu()
    made = Batch({name: column.cpu() for name, column in batch.row.items()} | row, step)
    return made.to(batch.device)


def _resting(now: np.ndarray, keys: Tensor, exploration: float, memory: Tensor | None) -> Batch:
    """What a policy reads beside the observations, a row per environment."""
    rows = empty_batch(Tasks(torch.zeros(len(keys), dtype=torch.int64, device=keys.device)))
    rows = rows.with_rows({"_obs": torch.from_numpy(now.copy()).to(keys.device)})
    if exploration:
        rows = rows.with_rows({EXPLORATION: torch.full((len(keys),), float(exploration), device=keys.device)})
    return rows if memory is None else rows.with_rows({MEMORY: memory.to(keys.device)})


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
        self.memory: dict[tuple[int, int], Tensor] = {}

    def end(self, t: int, slots: list[int], now: np.ndarray, memory: Tensor | None) -> None:
        self.ended[t, slots] = True
        for index, slot in enumerate(slots):
            self.final[t, slot] = now[slot].copy()
            if memory is not None:
                self.memory[t, slot] = memory[index]

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

    def cut(self, actor: Acting, world: Any, seed: int | None, version: int) -> Batch:
        """One row per run of steps. seed: the run's, None if episodes have no seeds."""
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
            "behaviour": steps(torch.stack(logp)).to(torch.get_default_dtype()),
            "reward": world.clipped(steps(self.reward)).to(torch.get_default_dtype()),
            "turn": torch.zeros(own.shape, dtype=torch.int64),
            "version": own.long() * version,
            "_obs": steps(self.obs),
            "_action": steps(torch.stack(taken)),
        }
        if actor.empty is not None:
            step[MEMORY] = steps(torch.stack(actor.memory).cpu())
            latest = actor.rows.row[MEMORY]
            # A run that no end of an episode closes is the environment's last one.
            row[MEMORY] = torch.stack([self.memory.get((t, n), latest[n]) for n, _, t in at]).cpu()
        if EXPLORATION in actor.rows.row:
            row[EXPLORATION] = actor.rows.row[EXPLORATION].cpu()[at.slot]
        return Batch(row, step)

    def _rows(self, at: _Pieces, ended: np.ndarray, seed: int | None) -> dict[str, Tensor]:
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
        finals = [self.final.get((t, n), self.now[n]) for n, _, t in at]
        total, length = torch.tensor(earned, dtype=torch.float64), torch.from_numpy(before + at.lengths)
        gone = torch.from_numpy(ended)
        stopped = torch.from_numpy(self.terminated[at.last, at.slot])
        slot, count = torch.from_numpy(at.slot), len(at.slot)
        named = zip(at.slot.tolist(), episodes.tolist(), strict=True)
        seeds = [-1 if seed is None else episode_seed(seed, n, episode) for n, episode in named]
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
            "_seed": torch.tensor(seeds),
            "_earned": total,
            "episode_return": torch.where(gone, total, torch.nan),
            "episode_length": torch.where(gone, length, 0),
        }


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
