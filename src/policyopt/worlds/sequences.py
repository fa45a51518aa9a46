"""Small worlds of discrete steps with known answers: bandits and strings, for tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.ops.sequences import prefix_keys
from policyopt.types import Batch, Finish, Source, StepKind, Tasks, empty_batch

Says = Callable[[Tensor, Tensor], Tensor]
"""Something said of strings (B, T), -1 beyond the end, and their tasks (B,)."""

Compares = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The probability (B,) that a first string (B, T) is preferred to a second one (B, T'), of tasks (B,)."""


@dataclass(frozen=True)
class SequenceWorld:
    """`size` tasks; a row is a string of at most `limit` symbols out of `choices`, ended by symbol `end` if given.

    state: task * limit + position (so a table can represent any per-position policy). reward(steps (B, T) with -1
    beyond the end, task (B,)) -> (B,). A row without an end symbol stops at the limit as planned; a row that could
    have ended and did not is truncated. pairs: (M, 2, limit) recorded strings, chosen first, padded with -1, and
    pair_tasks (M,): see `PairedWorld`.
    """

    size: int
    choices: int
    limit: int
    reward: Says
    end: int | None = None
    pairs: Tensor | None = None
    pair_tasks: Tensor | None = None
    recordings: Tensor | None = None  # (size, limit) a recorded string per task, padded with -1
    judge: Says | None = None  # -> (B, T): how right each step is, in 0..1
    checker: Says | None = None  # -> (B, J): how far each check is passed, in 0..1; nan: not a check of the task
    answer: Says | None = None  # -> (B,) int64: equal for answers that mean the same, negative if there is none
    heads: Mapping[str, Says] | None = None  # name -> (B,): rewards by name
    compare: Compares | None = None  # P(first > second); any numbers with P(a > b) + P(b > a) = 1, cycles included

    @property
    def states(self) -> int:
        return self.size * self.limit

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64)
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        return batch.with_rows({"_state": tasks.id * self.limit})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        position = batch.valid.sum(1)  # rows may have been rewound to different lengths
        taken = {
            "kind": torch.full_like(step, int(StepKind.OWN), dtype=torch.uint8),
            "train": torch.ones_like(live),
            "behaviour": logp,
            "version": torch.full_like(step, version),
            "_state": batch.row["_state"],
            "_step": step,
        }
        added = batch.behind({name: column[:, None] for name, column in taken.items()}, live[:, None])
        full = position + 1 >= self.limit
        stopped = live & (step == self.end) if self.end is not None else live & full
        cut = live & ~stopped & full
        finish = torch.where(stopped, int(Finish.STOPPED), batch.row["finish"])
        finish = torch.where(cut, int(Finish.TRUNCATED), finish)
        following = batch.row["task"] * self.limit + (position + 1).clamp(max=self.limit - 1)
        return added.with_rows({"finish": finish, "_state": torch.where(live, following, batch.row["_state"])})

    def rewind(self, batch: Batch, steps: Tensor) -> Batch:
        """The first `steps` (B,) steps of every row, to be continued differently."""
        return batch.rewound(steps)

    def strings(self, batch: Batch) -> Tensor:
        """(B, T) the symbols of every row, -1 beyond its end."""
        return torch.where(batch.valid, batch.step["_step"], -1)

    def grade(self, batch: Batch) -> Tensor:
        return self.reward(self.strings(batch), batch.row["task"])

    # -- what only some worlds can say (see `compose.World`) ------------------------------------------------------
    def _said(self, what: Says | None, name: str, batch: Batch) -> Tensor:
        if what is None:
            raise ValueError(f"this world can not say that of its strings; give SequenceWorld({name}=...)")
        return what(self.strings(batch), batch.row["task"])

    def state_keys(self, batch: Batch) -> Tensor:
        """(B, T): equal where two symbols followed the same symbols of the same task."""
        return prefix_keys(batch.row["task"], batch.step["_step"])

    def judge_steps(self, batch: Batch) -> Tensor:
        return self._said(self.judge, "judge", batch)

    def checks(self, batch: Batch) -> Tensor:
        return self._said(self.checker, "checker", batch)

    def answer_keys(self, batch: Batch) -> Tensor:
        return self._said(self.answer, "answer", batch)

    def grade_heads(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._said(says, "heads", batch) for name, says in (self.heads or {}).items()}

    def prefer(self, first: Batch, second: Batch) -> Tensor:
        if self.compare is None:
            raise ValueError("this world can not compare its strings; give SequenceWorld(compare=...)")
        return self.compare(self.strings(first), self.strings(second), first.row["task"])

    def complete(self, tasks: Tasks, strings: Tensor) -> Batch:
        """Finished rows from strings (B, limit), -1 beyond the end; behaviour log-probabilities are unknown."""
        batch = self.start(tasks)
        for position in range(strings.shape[1]):
            symbol = strings[:, position]
            nothing = torch.full((len(tasks),), float("nan"), dtype=torch.get_default_dtype())
            batch = self.append(batch, symbol.clamp(min=0), nothing, ~batch.done & (symbol >= 0), 0)
        source = torch.full_like(batch.row["source"], int(Source.DATASET))
        return batch.with_rows({"source": source, "finish": torch.full_like(source, int(Finish.STOPPED))})

    def recorded(self, tasks: Tasks) -> Batch:
        if self.recordings is None:
            raise ValueError("this world has no recorded strings; give SequenceWorld(recordings=...)")
        return self.complete(tasks, self.recordings[tasks.id])

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        """Two rows per drawn pair, chosen first."""
        if self.pairs is None or self.pair_tasks is None:
            raise ValueError("this world has no preference pairs; give SequenceWorld(pairs=..., pair_tasks=...)")
        both = tasks.repeat(2)
        strings = self.pairs[tasks.id].flatten(0, 1)
        rows = self.complete(Tasks(self.pair_tasks[both.id], both.row), strings)
        rank = torch.tensor([0, 1]).repeat(len(tasks))
        return rows.with_rows({"pair": both.row["group"], "rank": rank})


@dataclass(frozen=True)
class PairedWorld:
    """A SequenceWorld whose tasks are its recorded pairs."""

    inner: SequenceWorld

    @property
    def size(self) -> int:
        assert self.inner.pairs is not None
        return len(self.inner.pairs)

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        return self.inner.recorded_pairs(tasks)


def bandit(rewards: Tensor) -> SequenceWorld:
    """rewards (tasks, choices): the reward of a choice, without noise."""
    return SequenceWorld(
        len(rewards), rewards.shape[1], 1, lambda strings, task: rewards[task, strings[:, 0].clamp(min=0)]
    )
