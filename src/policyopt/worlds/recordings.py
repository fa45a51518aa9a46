"""Recorded episodes as a world: its tasks are transitions or whole episodes, its rows were taken by nobody here.

Columns are those of `EnvironmentWorld`'s streams, so that both may be trained on together; behaviour log-probabilities
are unknown (nan).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.types import Batch, Finish, Source, StepKind, Tasks

UNITS = ("transition", "episode")


class RecordingError(ValueError):
    """Recorded episodes that are not whole, do not fit together, or were asked for something they can not do."""


@dataclass(frozen=True)
class Episode:
    """observations (T + 1, ...), the last one after the last action; actions (T, ...) as the environment received them;
    rewards (T,). terminated: the environment ended it; otherwise a limit did, or the recording."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        if steps < 1 or len(self.actions) != steps or len(self.observations) != steps + 1:
            raise RecordingError(
                f"an episode of {steps} rewards has as many actions and one observation more, not {len(self.actions)} "
                f"and {len(self.observations)}; keep the final observation"
            )


def episodes_of(batch: Batch, emit: Callable[[Tensor], Tensor]) -> list[Episode]:
    """The finished rows of a batch that begin with their episode, with actions as the environment received them."""
    whole = batch.done & (batch.row["episode_length"] == batch.lengths)
    found = []
    for row in whole.nonzero()[:, 0].tolist():
        steps = int(batch.lengths[row])
        seen = torch.cat([batch.step["_obs"][row, :steps], batch.row["_obs"][row][None]])
        actions = emit(batch.step["_action"][row, :steps].contiguous())
        stopped = bool(batch.row["finish"][row] == Finish.STOPPED)
        found.append(
            Episode(seen.cpu().numpy(), actions.cpu().numpy(), batch.step["reward"][row, :steps].cpu().numpy(), stopped)
        )
    return found


class Recording:
    """Episodes, stored end to end. unit: what a task is, "transition" or "episode"."""

    def __init__(self, episodes: Sequence[Episode], unit: str = "transition", name: str = "recording"):
        if unit not in UNITS:
            raise RecordingError(f"unit is one of {', '.join(UNITS)}, not {unit!r}")
        if not episodes:
            raise RecordingError("a recording needs at least one episode")
        self.unit, self.name = unit, name
        wide = torch.get_default_dtype()
        self.observations = _joined([episode.observations for episode in episodes], wide)  # (M + E, ...)
        self.actions = _joined([episode.actions for episode in episodes], wide)  # (M, ...)
        self.rewards = _joined([episode.rewards for episode in episodes], wide).to(wide)  # (M,)
        self.lengths = torch.tensor([len(episode.rewards) for episode in episodes])  # (E,)
        self.terminated = torch.tensor([bool(episode.terminated) for episode in episodes])  # (E,)
        self.first = self.lengths.cumsum(0) - self.lengths  # (E,) the episode's first transition
        self.of = torch.repeat_interleave(torch.arange(len(episodes)), self.lengths)  # (M,)
        earned = torch.zeros(len(episodes), dtype=torch.float64).index_add(0, self.of, self.rewards.double())
        self.returns = earned  # (E,)
        self.steps = self.actions  # (M, ...) as a policy's densities are over them
        self._sums = self.rewards.double().cumsum(0)

    @property
    def size(self) -> int:
        return len(self.rewards) if self.unit == "transition" else len(self.lengths)

    def acted_by(self, policy: Any) -> Recording:
        """This recording, its actions as the raw steps of a policy."""
        self.steps = policy.receive(self.actions)
        return self

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def recorded(self, tasks: Tasks) -> Batch:
        """A row per task: of one step, whose state is what followed it; or of a whole episode."""
        ids = tasks.id.cpu()
        if self.unit == "transition":
            return self._rows(tasks, self.of[ids], ids - self.first[self.of[ids]], torch.ones_like(ids))
        return self._rows(tasks, ids, torch.zeros_like(ids), self.lengths[ids])

    def _rows(self, tasks: Tasks, episode: Tensor, before: Tensor, lengths: Tensor) -> Batch:
        """Rows of `lengths` steps from step `before` of their episodes."""
        offset = torch.arange(int(lengths.max()))
        own = offset < lengths[:, None]
        begun = (self.first[episode] + before)[:, None]
        at = torch.where(own, begun + offset, begun)  # (B, T) transitions
        last = begun[:, 0] + lengths - 1
        over = before + lengths == self.lengths[episode]
        ending = torch.where(self.terminated[episode], int(Finish.STOPPED), int(Finish.TRUNCATED))
        earned = self._sums[last] - self._sums[self.first[episode]] + self.rewards[self.first[episode]].double()
        none, wide = torch.zeros_like(episode), self.rewards.dtype
        row = {
            "task": tasks.id.cpu(),
            "group": torch.arange(len(episode)),
            "source": none + int(Source.DATASET),
            "finish": torch.where(over, ending, int(Finish.RUNNING)),
            "scored": torch.ones_like(over),
            "temperature": torch.ones(len(episode)),
            "_obs": self.observations[last + episode + 1],
            "_env": episode,
            "_episode": none,
            "_before": before,
            "_seed": none - 1,
            "_earned": earned,
            "episode_return": torch.where(over, self.returns[episode], torch.nan),
            "episode_length": torch.where(over, self.lengths[episode], 0),
            **{name: column.cpu() for name, column in tasks.row.items()},
        }
        step = {
            "kind": own.to(torch.uint8) * int(StepKind.OWN),
            "train": own,
            "behaviour": torch.where(own, torch.nan, 0.0).to(wide),
            "reward": torch.where(own, self.rewards[at], 0.0),
            "turn": torch.zeros_like(at),
            "version": torch.zeros_like(at),
            "_obs": self.observations[at + episode[:, None]],
            "_action": self.steps[at],
        }
        return Batch(row, step).to(tasks.id.device)

    def start(self, tasks: Tasks) -> Batch:
        raise RecordingError(
            f"{self.name} holds recorded episodes, in which no policy can act; sample from it with sampling=recorded, "
            "or give an environment"
        )

    def grade(self, batch: Batch) -> Tensor:
        """(B, T) the recorded rewards."""
        return batch.step["reward"]


def _joined(arrays: Sequence[np.ndarray], wide: torch.dtype) -> Tensor:
    """End to end; floating numbers in the default type, bytes as they are, other integers as int64."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise RecordingError(f"all episodes have observations, and actions, of one shape; these have {sorted(shapes)}")
    joined = torch.from_numpy(np.concatenate(arrays))
    if joined.is_floating_point():
        return joined.to(wide)
    return joined if joined.dtype == torch.uint8 else joined.to(torch.int64)
