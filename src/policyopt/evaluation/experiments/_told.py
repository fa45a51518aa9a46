"""String worlds whose rows may be told something: hints, drafts, patterns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.evaluation.experiments._worlds import Wrapped
from policyopt.policies.linear import Linear
from policyopt.types import NO_TOKEN, Batch, StepKind, Tasks


@dataclass(frozen=True)
class HintedStrings(Wrapped):
    """Row column `hint`: the share of the task's solution (size, limit) that stands at the beginning of a row already,
    as steps of kind HINT."""

    solution: Tensor
    instructions = ("hint",)

    def start(self, tasks: Tasks) -> Batch:
        batch = self.inner.start(tasks)
        if "hint" not in tasks.row:
            return batch
        shown = (tasks.row["hint"].nan_to_num() * self.inner.limit).round().long()
        for position in range(int(shown.max())):
            symbol = self.solution[tasks.id, position]
            nothing = torch.zeros(len(tasks), dtype=torch.get_default_dtype())
            batch = self.inner.append(batch, symbol, nothing, position < shown, 0)
        kind = torch.where(batch.own, int(StepKind.HINT), int(StepKind.PAD)).to(torch.uint8)
        return batch.with_steps({"kind": kind, "train": torch.zeros_like(batch.own)})


@dataclass(frozen=True)
class ToldStrings(Wrapped):
    """Strings whose states also know what the row is told of their position: state = position state * (1 + kinds) +
    1 ... kinds, or 0 for nothing. `name`: "draft" (B, W): the symbol there; "pattern" (B,): the pattern's number."""

    name: str
    kinds: int

    @property
    def instructions(self) -> tuple[str, ...]:
        return (self.name,)

    def told(self, row: dict[str, Tensor], position: Tensor) -> Tensor:
        """(B,) 0 ... kinds."""
        said = row.get(self.name)
        if said is None:
            return torch.zeros_like(position)
        if said.dim() == 1:
            return torch.where(said.isnan(), 0, said.nan_to_num().long() + 1)
        here = said.gather(1, position.clamp(max=said.shape[1] - 1)[:, None])[:, 0]
        return torch.where((here == NO_TOKEN) | (position >= said.shape[1]), 0, here + 1)

    def with_state(self, batch: Batch) -> Batch:
        position = batch.valid.sum(1).clamp(max=self.inner.limit - 1)
        plain = batch.row["task"] * self.inner.limit + position
        return batch.with_rows({"_state": plain * (1 + self.kinds) + self.told(dict(batch.row), position)})

    def start(self, tasks: Tasks) -> Batch:
        return self.with_state(self.inner.start(tasks))

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        return self.with_state(self.inner.append(batch, step, logp, live, version))


@dataclass(frozen=True)
class PatternedStrings(ToldStrings):
    """Tasks with complexities (size,)."""

    complexities: Tensor

    def complexity(self, ids: Tensor) -> Tensor:
        return self.complexities[ids]


def told_strings(own: Tensor, told: Tensor) -> Linear:
    """A policy of `ToldStrings`: logits (size * limit, V), and what each thing told adds to them, (K, V) alike for all
    positions or (K, limit, V) by position."""
    kinds, places = len(told), told.shape[1] if told.dim() == 3 else 1
    states = torch.arange(len(own) * (1 + kinds))
    place, level = states // (1 + kinds), states % (1 + kinds)
    features = torch.zeros(len(states), len(own) + kinds * places)
    features[states, place] = 1
    said = states[level > 0]
    features[said, len(own) + (level[said] - 1) * places + place[said] % places] = 1
    return Linear(features, torch.cat([own, told.reshape(kinds * places, -1)]))
