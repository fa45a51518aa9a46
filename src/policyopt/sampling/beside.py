"""Rows of the policy beside rows of a data set, in one group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, Seen
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.types import Batch, Source, Tasks, concatenate

COPY = "copy"
"""Row column of tasks: which of a task's recorded rows is meant."""


@dataclass(frozen=True)
class GroupAndRecorded(Part):
    """`size` attempts of every task and rows of it from the data, judged alike, in the task's group.

    recorded: rows of the data per task; a world with several of a task gives the number `copy` of each task it is asked
    for (worlds with one give that). teachers: they are drawn uniformly from that many; None: the first ones. apart:
    they form a group of their own, with the id -1 - group.
    """

    size: int = 8
    temperature: float = 1.0
    recorded: int = 1
    teachers: int | None = None
    apart: bool = False

    data = "rows"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.recorded < 1 or (self.teachers is not None and self.teachers < 1):
            raise CompositionError(f"need a recorded row and a teacher, got {self.recorded} and {self.teachers}")

    def copies(self, ctx: Context, tasks: Tasks) -> Tensor:
        count = len(tasks) * self.recorded
        if self.teachers is None:
            return torch.arange(self.recorded, device=tasks.id.device).repeat(len(tasks))
        return torch.randint(self.teachers, (count,), generator=ctx.rng("teachers")).to(tasks.id.device)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        own = attempt(ctx, tasks, self.size, self.temperature)
        shown: Batch = ctx.world.recorded(tasks.repeat(self.recorded).with_rows({COPY: self.copies(ctx, tasks)}))
        shown = Batch({name: column for name, column in shown.row.items() if name != COPY}, shown.step)
        if self.apart:
            shown = shown.with_rows({"group": -1 - shown.row["group"]})
        return judge(concatenate([own, shown]))


def written_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of rows that the policy wrote."""
    return batch.trained & (batch.row["source"] == Source.POLICY)[:, None]


def given_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of rows that it did not."""
    return batch.trained & (batch.row["source"] != Source.POLICY)[:, None]


def written_rows(seen: Seen, batch: Batch) -> Tensor:
    """A mask: rows with a trained step that the policy wrote."""
    return written_steps(seen, batch).any(1)


def given_rows(seen: Seen, batch: Batch) -> Tensor:
    """A mask: rows with a trained step that it did not."""
    return given_steps(seen, batch).any(1)
