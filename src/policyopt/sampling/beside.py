"""Rows of the policy beside rows of a data set, in one group."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import Context, Part, Seen
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.types import Batch, Source, concatenate


@dataclass(frozen=True)
class GroupAndRecorded(Part):
    """`size` attempts of every task and the task's recorded row, judged alike, in the task's group."""

    size: int = 8
    temperature: float = 1.0

    data = "rows"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        own = attempt(ctx, tasks, self.size, self.temperature)
        return judge(concatenate([own, ctx.world.recorded(tasks)]))


def written_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of rows that the policy wrote."""
    return batch.trained & (batch.row["source"] == Source.POLICY)[:, None]


def given_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of rows that it did not."""
    return batch.trained & (batch.row["source"] != Source.POLICY)[:, None]
