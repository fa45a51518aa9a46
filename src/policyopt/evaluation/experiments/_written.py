"""Worlds of strings whose states know the symbol before, and what was recorded there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.evaluation.experiments._worlds import Automaton
from policyopt.types import Batch, Tasks
from policyopt.worlds.sequences import SequenceWorld


@dataclass(frozen=True)
class Written(Automaton):
    """An automaton of one task with recorded strings (M, limit), which are its tasks to draw."""

    recordings: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.int64))

    @property
    def size(self) -> int:
        return len(self.recordings)

    def start(self, tasks: Tasks) -> Batch:
        return super().start(replace(tasks, id=torch.zeros_like(tasks.id)))

    def recorded(self, tasks: Tasks) -> Batch:
        world: Any = self
        return SequenceWorld.complete(world, tasks, self.recordings[tasks.id])


def written(limit: int, choices: int, reward: Any, recordings: Tensor | None = None) -> Written:
    """Strings of a fixed length whose states are position * choices + the symbol before (0 at the beginning), those
    behind the last symbol included."""
    inner = SequenceWorld(1, choices, limit, reward)
    held = torch.zeros(1, limit, dtype=torch.int64) if recordings is None else recordings
    return Written(
        inner,
        (limit + 1) * choices,
        torch.zeros_like,
        lambda state, symbol: (state // choices + 1) * choices + symbol,
        held,
    )


def knowing(right: Tensor, reward: Any, recordings: Tensor | None = None, *, ever: bool = False) -> Written:
    """Strings in which the right symbol depends on place and symbol before, right (limit, choices). States know the
    place, the symbol before, and whether it was wrong (ever: whether any was): (place * choices + before) * 2 + wrong.
    """
    limit, choices = right.shape
    padded = torch.cat([right, right[:1]])

    def follow(state: Tensor, symbol: Tensor) -> Tensor:
        place, before, wrong = state // (2 * choices), state // 2 % choices, state % 2
        fails = (symbol != padded[place.clamp(max=limit), before]).long()
        return (place + 1) * 2 * choices + 2 * symbol + (wrong | fails if ever else fails)

    held = torch.zeros(1, limit, dtype=torch.int64) if recordings is None else recordings
    inner = SequenceWorld(1, choices, limit, reward)
    return Written(inner, (limit + 1) * choices * 2, torch.zeros_like, follow, held)


def hits(right: Tensor, strings: Tensor) -> Tensor:
    """(B, limit) whether each symbol is right after the one before (0 at first)."""
    before = torch.cat([torch.zeros_like(strings[:, :1]), strings[:, :-1]], 1)
    return right[torch.arange(len(right)), before] == strings
