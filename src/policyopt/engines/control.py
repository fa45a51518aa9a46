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
from policyopt.engines.fragments import Trace, demand_numbers
from policyopt.engines.plain import generate
from policyopt.ops.random import derive, generator, new_keys
from policyopt.ops.streams import State, state_after
from policyopt.truncation import CUT
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch


class ControlEngine:
    """Whole episodes (`Engine`), and streams: steps of environments that go on from round to round."""

    def __call__(
        self,
        policy: Any,
        world: Any,
        batch: Batch,
        keys: Tensor,
        temperature: float,
        version: int,
        steps: int | None = None,
    ) -> Batch:
        """Steps until every row is done. Rows that have steps already, that pause or that are sampled by a truncated
        distribution take them one by one."""
        if steps is not None or batch.steps or not len(batch) or CUT in batch.row:
            return generate(policy, world, batch, keys, temperature, version, steps)
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
        trace = Trace(horizon, streams.now, streams.episode, streams.before, streams.earned)
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
    device = next(policy.parameters()).device
    with torch.no_grad():
        for first in range(0, count, parallel):
            rows = range(first, min(first + parallel, count))
            seeds = [derive(seed, "evaluation", row) >> 32 for row in rows]
            keys = torch.cat([new_keys(1, generator(seed, "evaluation", row)) for row in rows]).to(device)
            tasks = Tasks(torch.zeros(len(rows), dtype=torch.int64), {"_seed": torch.tensor(seeds)})
            batch = world.start(tasks.to(device))
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
        with world.blaming("step"):
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
    demand_numbers(torch.cat(taken), ran.earned, world.name)
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
