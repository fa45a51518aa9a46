"""Gymnasium environments as a world: rows are episodes, steps are actions, tasks are the seeds of episodes.

Columns: `_obs`, the state (step (B, T, ...): before each step; row (B, ...): after the last, the final observation of a
finished episode). `_action` (step), as the policy's distribution is over it; `emit` makes of it what the environment
takes. Row columns: `_seed` of the episode; `_env`, which of the environments side by side; `_history`, a digest of seed
and actions; `_earned`, the rewards so far; `episode_return` (undiscounted, as the environment gave them; nan while
the episode goes on) and `episode_length` (0 while it does).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from policyopt.ops.random import derive
from policyopt.ops.streams import State, episode_seed, same_state
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch
from policyopt.worlds.environment_slots import Local, Slots, Streams, Vectored, Workers
from policyopt.worlds.environments import Actions, Blaming, Recipe, UnsuitableEnvironmentError, register_atari, unknown

Emit = Callable[[Tensor], Tensor]


def unchanged(step: Tensor) -> Tensor:
    return step


@dataclass(eq=False)
class EnvironmentWorld:
    """`size` tasks: task n begins with the n-th seed, so that the attempts of a group share their first state.

    build: makes one environment with array observations. emit: what a policy's step is to the environment (a policy's
    own `emit`, without parameters). reward_clip: rewards are clipped to this interval; `episode_return` is not.
    processes: streams step in worker processes, one an environment. vector: streams run in a vector environment of
    so many slots. most_live: environments kept alive between steps of rows.
    """

    build: Callable[[], gymnasium.Env]
    emit: Emit = unchanged
    name: str = "environment"
    size: int = 2**20
    seed: int = 0
    reward_clip: tuple[float, float] | None = None
    processes: bool = False
    vector: Callable[[int], VectorEnv] | None = None
    most_live: int = 1024
    _idle: list[gymnasium.Env] = field(default_factory=list, init=False, repr=False)
    _live: OrderedDict[int, list[gymnasium.Env]] = field(default_factory=OrderedDict, init=False, repr=False)
    _streams: dict[int, Streams] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        env = self.build()
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.actions = Actions.of(env.action_space, self.name)
        self._idle.append(env)
        kept = {np.dtype(np.uint8): torch.uint8, np.dtype(np.int64): torch.int64}
        self.dtype = kept.get(np.dtype(env.observation_space.dtype), torch.get_default_dtype())
        self.step_dtype = torch.get_default_dtype() if self.actions.continuous else torch.int64

    @classmethod
    def make(cls, name: str, emit: Emit = unchanged, *, size: int = 2**20, seed: int = 0, **options: Any) -> Any:
        """An environment by its Gymnasium id. options: those of `Recipe` (limit, frame_stack, atari, wrappers, options)
        and of this class (reward_clip, processes, most_live)."""
        own = {key: options.pop(key) for key in ("reward_clip", "processes", "most_live") if key in options}
        return cls(Recipe(name, **options), emit, name, size, seed, **own)

    @classmethod
    def make_vector(
        cls,
        name: str,
        emit: Emit = unchanged,
        *,
        vectorization: str = "sync",
        autoreset: str = "NextStep",
        limit: int | None = None,
        **options: Any,
    ) -> Any:
        """Streams in `gymnasium.make_vec(name)`, other rows in `gymnasium.make(name)`.

        vectorization: "sync", "async" or "vector_entry_point" (the environment's own). autoreset: how the first two
        begin the next episode, "NextStep" or "SameStep". Later episodes have no seeds, so a run can not be resumed.
        """
        many = _vector(name, vectorization, AutoresetMode(autoreset), limit)
        return cls(Recipe(name, limit), emit, name, vector=many, **options)

    def acted_by(self, policy: Any) -> EnvironmentWorld:
        """This world, receiving the steps of a policy."""
        self.emit = policy.emit
        return self

    def close(self) -> None:
        """End the worker processes of streams."""
        for streams in self._streams.values():
            if isinstance(streams.slots, Workers):
                streams.slots.close()
        self._streams.clear()

    # -- rows ------------------------------------------------------------------------------------------------------
    def tasks(self, ids: Tensor) -> Tasks:
        seeds = [derive(self.seed, "episode of task", int(task)) >> 32 for task in ids]
        return Tasks(ids, {"_seed": torch.tensor(seeds, dtype=torch.int64, device=ids.device)})

    def start(self, tasks: Tasks) -> Batch:
        rows, device = len(tasks), tasks.id.device
        seeds = tasks.row["_seed"].tolist()
        obs = self.blank(rows)
        history = [_digest(0, seed.to_bytes(8, "big")) for seed in seeds]
        for row, seed in enumerate(seeds):
            env = self._take(rows)
            with self.blaming("reset"):
                obs[row] = env.reset(seed=seed)[0]
            self._live.setdefault(history[row], []).append(env)
        before = torch.zeros(rows, 0, *obs.shape[1:], dtype=self.dtype, device=device)
        action = torch.zeros(rows, 0, *self.actions.shape, dtype=self.step_dtype, device=device)
        return empty_batch(tasks, {"_obs": before, "_action": action}).with_rows(
            {
                "_obs": torch.from_numpy(obs).to(device),
                "_env": torch.arange(rows, device=device),
                "_history": torch.tensor(history, dtype=torch.int64, device=device),
                "_earned": torch.zeros(rows, dtype=torch.float64, device=device),
                "episode_return": torch.full((rows,), float("nan"), dtype=torch.float64, device=device),
                "episode_length": torch.zeros(rows, dtype=torch.int64, device=device),
            }
        )

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        """One more action of every live row. Its reward is the environment's; a terminated episode is STOPPED, one
        that a limit ended TRUNCATED."""
        step = step.to(batch.step["_action"].dtype)  # what is kept is what is done
        found = self._stepped(batch, step, live)
        reward = found.reward.to(batch.device)
        behind = live.view(-1, *(1,) * (step.dim() - 1))
        added = batch.append(
            {
                "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD)).to(torch.uint8)[:, None],
                "train": live[:, None],
                "behaviour": torch.where(live, logp, 0.0)[:, None],
                "reward": self.clipped(reward)[:, None],
                "version": torch.full((len(batch), 1), version, device=batch.device),
                "_obs": batch.row["_obs"][:, None],
                "_action": torch.where(behind, step, torch.zeros_like(step))[:, None],
            }
        )
        finish = torch.where(live, found.finish.to(batch.device), batch.row["finish"])
        ended = live & (finish != Finish.RUNNING)
        earned = batch.row["_earned"] + reward
        return added.with_rows(
            {
                "finish": finish,
                "_obs": found.obs.to(batch.device),
                "_history": found.history.to(batch.device),
                "_earned": earned,
                "episode_return": torch.where(ended, earned, batch.row["episode_return"]),
                "episode_length": torch.where(ended, added.lengths, batch.row["episode_length"]),
            }
        )

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the reward of every step."""
        return batch.step["reward"]

    # -- what engines and rows share ---------------------------------------------------------------------------------
    def blank(self, count: int) -> np.ndarray:
        """(count, ...) for observations."""
        return torch.zeros(count, *(self.observation_space.shape or ()), dtype=self.dtype).numpy()

    def sent(self, step: Tensor) -> np.ndarray:
        """(N, ...) the actions that the environments take."""
        return self.actions.send(self.emit(step.contiguous()).detach().cpu().numpy())

    def clipped(self, reward: Tensor) -> Tensor:
        return reward if self.reward_clip is None else reward.clamp(*self.reward_clip)

    def blaming(self, method: str) -> Blaming:
        """A context in which what environments raise is told with their name."""
        return Blaming(self.name, method)

    def environments(self, batch: Batch) -> list[gymnasium.Env]:
        """The environment of every row, where its actions have led it; `release` takes it back."""
        return [self._resumed(batch, row, history) for row, history in enumerate(batch.row["_history"].tolist())]

    def release(self, envs: list[gymnasium.Env]) -> None:
        self._idle.extend(envs)

    def streams(self, state: State, count: int) -> Streams:
        """`count` environments where `state` says they are: the live ones if they are there, else others that are
        reset with the seeds of their episodes and take the episodes' actions again."""
        if count not in self._streams:
            self._streams[count] = Streams(self._slots(count), self.blank(count))
        streams = self._streams[count]
        if not (streams.state is not None and same_state(streams.state, state)):
            self._repeat(streams, state)
        streams.state = None  # unknown until `Streams.stand`, should the round be broken off
        return streams

    def _slots(self, count: int) -> Slots:
        if self.vector is not None:
            return Vectored(self.vector(count), self.name)
        if self.processes:
            return Workers(self.build, count, self.name)
        return Local([self._take(count) for _ in range(count)], self.actions, self.name)

    def _repeat(self, streams: Streams, state: State) -> None:
        count, episodes = streams.slots.count, state["episode"]
        if len(episodes) not in (0, count):
            raise UnsuitableEnvironmentError(
                f"the run goes on in {len(episodes)} environments, sampling asks for {count}; keep sampling.count"
            )
        if not streams.slots.seeded and (len(episodes) or streams.begun):
            raise UnsuitableEnvironmentError(
                f"the vector environment of {self.name} begins episodes by itself, without seeds, so it can not be "
                "brought back to where a run was; use EnvironmentWorld.make(id), whose runs can be resumed"
            )
        streams.begun = True
        streams.episode = episodes.numpy().copy() if len(episodes) else np.zeros(count, dtype=np.int64)
        streams.seed, streams.earned = state["seed"], np.zeros(count)
        streams.before, streams.memory = np.zeros(count, dtype=np.int64), state["memory"]
        if not len(episodes):
            streams.begin(range(count))
            return
        streams.earned[:] = state["earned"].numpy()
        streams.before[:] = [len(actions) for actions in state["actions"]]
        seeds = [episode_seed(streams.seed, slot, int(episode)) for slot, episode in enumerate(streams.episode)]
        streams.slots.repeat(seeds, [self.sent(actions) for actions in state["actions"]], streams.now)

    def _take(self, wanted: int) -> gymnasium.Env:
        if not self._idle:
            alive = sum(map(len, self._live.values()))
            if alive < max(self.most_live, 2 * wanted):
                return self.build()
            # The oldest belongs to rows that were left; should one go on, it is rebuilt from its actions.
            self._idle += self._live.popitem(last=False)[1]
        return self._idle.pop()

    def _stepped(self, batch: Batch, step: Tensor, live: Tensor) -> _Found:
        obs, reward = batch.row["_obs"].cpu().numpy().copy(), np.zeros(len(batch))
        history, finish = batch.row["_history"].tolist(), [int(Finish.RUNNING)] * len(batch)
        sent = self.sent(step)
        singles = self.actions.singles(sent)
        for row in live.nonzero()[:, 0].tolist():
            env = self._resumed(batch, row, history[row])
            with self.blaming("step"):
                obs[row], reward[row], terminated, truncated, _ = env.step(singles[row])
            history[row] = _digest(history[row], sent[row].tobytes())
            if terminated or truncated:
                finish[row] = int(Finish.STOPPED if terminated else Finish.TRUNCATED)
                self._idle.append(env)
            else:
                self._live.setdefault(history[row], []).append(env)
        return _Found(
            torch.from_numpy(obs), torch.from_numpy(reward), torch.tensor(finish), torch.tensor(history).long()
        )

    def _resumed(self, batch: Batch, row: int, history: int) -> gymnasium.Env:
        """The environment of a row, where the row's actions have led it: a live one, or one that takes them again."""
        waiting = self._live.get(history)
        if waiting:
            env = waiting.pop()
            if not waiting:
                del self._live[history]
            return env
        env = self._take(len(batch))
        with self.blaming("reset"):
            env.reset(seed=int(batch.row["_seed"][row]))
        taken = batch.step["_action"][row][batch.own[row]]
        with self.blaming("step"):
            for action in self.actions.singles(self.sent(taken)) if len(taken) else ():
                env.step(action)
        return env


@dataclass(frozen=True)
class _Found:
    """What one action of some rows led to."""

    obs: Tensor
    reward: Tensor
    finish: Tensor
    history: Tensor


def _digest(before: int, what: bytes) -> int:
    """63 bits that name an episode's seed and actions."""
    text = before.to_bytes(8, "big") + what
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _vector(name: str, vectorization: str, mode: AutoresetMode, limit: int | None) -> Callable[[int], VectorEnv]:
    def many(count: int) -> VectorEnv:
        register_atari(name)
        if name not in gymnasium.registry:
            raise UnsuitableEnvironmentError(unknown(name))
        steps = limit or gymnasium.spec(name).max_episode_steps
        # An environment's own vectorization has its own way to begin episodes, which its metadata says.
        options = {} if vectorization == "vector_entry_point" else {"autoreset_mode": mode}
        return gymnasium.make_vec(name, count, vectorization, options, max_episode_steps=steps)

    return many
