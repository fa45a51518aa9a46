"""Drawing tasks and keeping rows: `Selection` joins one rule of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import informative
from policyopt.ops.random import generator
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch, Finish, Tasks


def in_epochs(ctx: Context, ids: Tensor, count: int, purpose: str = "epoch") -> Tasks:
    """The next `count` of some tasks (N,): each once per epoch, every epoch in its own order. A function of the data
    position alone."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(ctx.drawn + len(found), len(ids))
        order = ids[torch.randperm(len(ids), generator=generator(ctx.seed, purpose, epoch))]
        found.extend(order[offset : offset + count - len(found)].tolist())
    return ctx.world.tasks(torch.tensor(found))


@dataclass(frozen=True)
class Epochs(Part):
    """Every task once per epoch, each epoch in its own order. The next tasks are a function of the data
    position alone, so a restart continues in the middle of an epoch."""

    def __call__(self, ctx: Context, count: int) -> Tasks:
        return in_epochs(ctx, torch.arange(ctx.world.size), count)


@dataclass(frozen=True)
class EveryRow(Part):
    """Train on all rows; groups of equal rewards have advantage 0 but count in denominators and in KL terms."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch


@dataclass(frozen=True)
class InformativeGroups(Part):
    """Only groups whose scored rows differ in reward by more than `tolerance`; dropped rows leave every term,
    denominators included."""

    tolerance: float = 1e-8

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        differ = informative(total_reward(batch), batch.row["group"], batch.row["scored"], self.tolerance)
        return batch[differ]


@dataclass(frozen=True)
class FinishedRows(Part):
    """Leave truncated rows out of every term (they stay in the group statistics)."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch[batch.row["finish"] != Finish.TRUNCATED]


@dataclass(frozen=True)
class PairedRows(Part):
    """Only rows that are a side of a preference pair."""

    reads = ("pair", "rank")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch[batch.row["rank"] >= 0]


@dataclass(frozen=True)
class Selection(Part):
    """`count` tasks a round in the order of `tasks`; of the credited rows those that `rows` keeps."""

    count: int = 32
    tasks: Any = Epochs()
    rows: Any = EveryRow()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise CompositionError(f"selection.count must be at least 1, not {self.count}")

    def draw(self, ctx: Context, count: int | None = None) -> Tasks:
        return self.tasks(ctx, self.count if count is None else count)

    def keep(self, ctx: Context, batch: Batch) -> Batch:
        return self.rows(ctx, batch)
