"""Environments side by side: in this process, in worker processes, or as one of Gymnasium's vector environments.

A slot steps and is reset on its own. `step` returns the observation that the step led to, never one after a reset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from torch import Tensor

from policyopt.ops.streams import State, episode_seed
from policyopt.worlds.environments import Actions, Blaming, UnsuitableEnvironmentError

ENDING = 5.0  # seconds that a worker process may take to end


class Slots(Protocol):
    """`count` environments. seeded: a reset takes the seed of the episode, so that an episode can be repeated."""

    count: int
    seeded: bool

    def reset(self, slot: Sequence[int], seeds: Sequence[int], out: np.ndarray) -> None:
        """Begin episodes in some slots; their first observations go to out[slot]."""
        ...

    def step(self, actions: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of every slot: observations to `out`, rewards (N,) float64, terminated (N,), truncated (N,)."""
        ...

    def repeat(self, seeds: Sequence[int], actions: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Begin an episode in every slot and take its actions (n, ...), of any number; observations go to `out`."""
        ...

    def waiting(self) -> np.ndarray:
        """(N,) True where the next step only begins an episode: it takes no action and gives no reward."""
        ...


class Local:
    """In this process, one after another."""

    seeded = True

    def __init__(self, envs: list[gymnasium.Env], actions: Actions, name: str = "environment"):
        self._resetting, self._stepping = Blaming(name, "reset"), Blaming(name, "step")
        self.envs, self.count, self._actions = envs, len(envs), actions
        self._none = np.zeros(self.count, dtype=bool)
        self._reward, self._terminated, self._truncated = (
            np.zeros(self.count),
            np.zeros(self.count, dtype=bool),
            np.zeros(self.count, dtype=bool),
        )

    def reset(self, slot: Sequence[int], seeds: Sequence[int], out: np.ndarray) -> None:
        with self._resetting:
            for index, seed in zip(slot, seeds, strict=True):
                out[index] = self.envs[index].reset(seed=seed)[0]

    def step(self, actions: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reward, terminated, truncated = self._reward, self._terminated, self._truncated
        singles = self._actions.singles(actions)
        with self._stepping:
            for index, action in enumerate(singles):
                out[index], reward[index], terminated[index], truncated[index], _ = self.envs[index].step(action)
        return reward, terminated, truncated

    def repeat(self, seeds: Sequence[int], actions: Sequence[np.ndarray], out: np.ndarray) -> None:
        self.reset(range(self.count), seeds, out)
        with self._stepping:
            for index, (env, taken) in enumerate(zip(self.envs, actions, strict=True)):
                for action in self._actions.singles(taken):
                    out[index] = env.step(action)[0]

    def waiting(self) -> np.ndarray:
        return self._none


def end_workers(vector: AsyncVectorEnv) -> None:
    """At once: its own `close` waits without an end for workers that do not."""
    for process in vector.processes:
        process.terminate()
    for process in vector.processes:
        process.join(ENDING)
    vector.closed = True


def _blaming(vector: Any, name: str) -> tuple[Blaming, Blaming]:
    """Of the resets and the steps of a vector environment, whose worker processes end with the first that fails."""

    def end() -> None:
        end_workers(vector)

    failed = end if isinstance(vector, AsyncVectorEnv) else None
    return Blaming(name, "reset", failed), Blaming(name, "step", failed)


class Workers:
    """In worker processes, `count` of them, by Gymnasium's asynchronous vector environment."""

    seeded = True

    def __init__(self, make: Callable[[], gymnasium.Env], count: int, name: str = "environment"):
        self.count = count
        self._vector = AsyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.DISABLED, copy=False)
        self._resetting, self._stepping = _blaming(self._vector, name)
        self._none = np.zeros(count, dtype=bool)
        self._begun = False

    def reset(self, slot: Sequence[int], seeds: Sequence[int], out: np.ndarray) -> None:
        if not self._begun:  # a worker that never began can not be passed over
            with self._resetting:
                self._vector.reset(seed=0)
            self._begun = True
        if not len(slot):
            return
        mask = np.zeros(self.count, dtype=bool)
        every: list[int | None] = [0] * self.count
        for index, seed in zip(slot, seeds, strict=True):
            mask[index], every[index] = True, seed
        with self._resetting:
            found, _ = self._vector.reset(seed=every, options={"reset_mask": mask})
        out[mask] = found[mask]

    def step(self, actions: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with self._stepping:
            out[:], reward, terminated, truncated, _ = self._vector.step(actions)
        return reward, terminated, truncated

    def repeat(self, seeds: Sequence[int], actions: Sequence[np.ndarray], out: np.ndarray) -> None:
        # Workers only step together, so a slot begins its episode when as many steps remain as it takes. Until then
        # it repeats one action, whatever that leads to.
        remaining = np.array([len(taken) for taken in actions])
        most = int(remaining.max())
        example = actions[int(remaining.argmax())]
        ended = np.ones(self.count, dtype=bool)
        for left in range(most, -1, -1):
            due = ended | (remaining == left)
            self.reset(due.nonzero()[0].tolist(), [seeds[index] for index in due.nonzero()[0]], out)
            if left:
                together = np.stack(
                    [taken[len(taken) - left] if len(taken) >= left else example[0] for taken in actions]
                )
                _, terminated, truncated = self.step(together, out)
                ended = (terminated | truncated) & (remaining < left)

    def waiting(self) -> np.ndarray:
        return self._none

    def close(self) -> None:
        end_workers(self._vector)


class Vectored:
    """One of Gymnasium's vector environments, which begins episodes by itself in one of two ways.

    Next step: the step after an episode's end ignores its action and returns the first observation of the next episode;
    it is no transition. Same step: the ending step already returns that observation, the final one is in its infos.
    Later episodes have no seeds of their own, so a stream can not be repeated from the middle.
    """

    seeded = False

    def __init__(self, vector: Any, name: str = "environment"):
        self.count, self._vector = vector.num_envs, vector
        self._resetting, self._stepping = _blaming(vector, name)
        self._mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if self._mode is AutoresetMode.DISABLED:
            raise UnsuitableEnvironmentError(
                "a vector environment resets itself (autoreset_mode NEXT_STEP or SAME_STEP); with DISABLED give its "
                "environments one by one: EnvironmentWorld.make(id, processes=...)"
            )
        self._waiting = np.zeros(self.count, dtype=bool)
        self._first: Any = None  # observations after a reset of the same step

    def reset(self, slot: Sequence[int], seeds: Sequence[int], out: np.ndarray) -> None:
        """All slots at once begin with the first seed; later a slot has begun by itself."""
        if len(slot) == self.count and self._first is None:
            with self._resetting:
                out[:], _ = self._vector.reset(seed=seeds[0])  # one number: not all of them take a list
            self._first = out.copy()
        elif self._mode is AutoresetMode.SAME_STEP:
            out[list(slot)] = self._first[list(slot)]

    def step(self, actions: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with self._stepping:
            found, reward, terminated, truncated, infos = self._vector.step(actions)
        out[:] = found
        ended = terminated | truncated
        if self._mode is AutoresetMode.NEXT_STEP:
            self._waiting = ended
        elif ended.any():
            self._first = np.array(found)
            for index in ended.nonzero()[0]:
                out[index] = infos["final_obs"][index]
        return np.asarray(reward, dtype=np.float64), terminated, truncated

    def repeat(self, seeds: Sequence[int], actions: Sequence[np.ndarray], out: np.ndarray) -> None:
        raise UnsuitableEnvironmentError("a vector environment begins episodes without seeds; none can be repeated")

    def waiting(self) -> np.ndarray:
        return self._waiting


@dataclass
class Streams:
    """Environments that go on from round to round, and where they are.

    now: (N, ...) the observations before the next steps. before: (N,) steps of the episodes so far; earned: (N,) their
    rewards. state: the same as data, None while they move.
    """

    slots: Slots
    now: np.ndarray
    seed: int = 0
    begun: bool = False
    episode: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    before: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    earned: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory: Tensor | None = None
    state: State | None = None

    def stand(self, state: State) -> None:
        """The environments have moved to `state`."""
        self.state, self.memory = state, state["memory"]
        self.before = np.array([len(actions) for actions in state["actions"]], dtype=np.int64)
        self.earned = state["earned"].numpy().copy()

    def begin(self, slots: Sequence[int]) -> None:
        """Begin the episodes whose numbers `episode` holds."""
        self.slots.reset(slots, [episode_seed(self.seed, slot, int(self.episode[slot])) for slot in slots], self.now)
