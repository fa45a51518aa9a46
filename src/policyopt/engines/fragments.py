"""What steps of environments side by side led to, cut into rows: one per piece of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.engines.acting import EXPLORATION, MEMORY, Acting
from policyopt.engines.sampling import NotFiniteError
from policyopt.ops.streams import episode_seed
from policyopt.types import Batch, Finish, StepKind


def demand_numbers(taken: Tensor, reward: np.ndarray, name: str) -> None:
    """NotFiniteError for what would spoil every later update."""
    if not bool(taken.isfinite().all()):
        raise NotFiniteError(
            f"the policy took a step that is no number in {name}: its weights have diverged; train again with a lower "
            "learning rate, or normalise observations and rewards"
        )
    if not np.isfinite(reward).all():
        raise NotFiniteError(
            f"{name} gave a reward that is no number; wrap it so that it does not, or clip its actions"
        )


class Trace:
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

    def pieces(self) -> Pieces:
        """Maximal runs of steps of one environment and episode, in the order of environments, then of time."""
        stops = self.ended | self.waiting  # a waiting step is a run of its own, which is left out
        stops[:-1] |= self.waiting[1:]
        stops[-1] = True
        slot, last = stops.T.nonzero()
        first = np.concatenate([[0], last[:-1] + 1])
        first[np.concatenate([[True], slot[1:] != slot[:-1]])] = 0
        taken = ~self.waiting[first, slot]
        return Pieces(slot[taken], first[taken], last[taken])

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
        demand_numbers(torch.stack(taken), self.reward, world.name)
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

    def _rows(self, at: Pieces, ended: np.ndarray, seed: int | None) -> dict[str, Tensor]:
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
class Pieces:
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
