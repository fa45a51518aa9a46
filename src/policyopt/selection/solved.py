"""Leaving out what is solved: groups that are good and alike, and tasks that have been so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.groups import group_mean, group_std
from policyopt.ops.sequences import total_reward
from policyopt.selection.tasks import in_epochs
from policyopt.types import Batch, Round, Tasks

RETIRED = Cell("retired tasks", list)
"""Ids of tasks that are drawn no more, ascending."""


def statistics(batch: Batch) -> tuple[Tensor, Tensor]:
    """(B,) population standard deviation and mean of the rewards of each row's group."""
    reward, ids, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
    return group_std(reward, ids, scored, 0), group_mean(reward, ids, scored)


@dataclass(frozen=True)
class UnsolvedGroups(Part):
    """Only groups whose rewards differ (standard deviation above `spread`) and are not yet good (mean below `most`), as
    the release of arXiv 2510.16888 does. lenient: one of both is enough. For rewards in 0..1."""

    spread: float = 0.05
    most: float = 0.9
    lenient: bool = False

    formula = "std_g R > spread and mean_g R < most (lenient: or)"

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise CompositionError(f"spread must not be negative, got {self.spread}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        spread, mean = statistics(batch)
        differ, unsolved = spread > self.spread, mean < self.most
        return batch[differ | unsolved if self.lenient else differ & unsolved]


@dataclass(frozen=True)
class UnretiredTasks(Part):
    """Tasks in epochs of random order, without those that are solved: a task whose group is alike (standard deviation
    below `spread`) and good (mean above `most`) is retired after the round. If all are, all are drawn again."""

    spread: float = 0.05
    most: float = 0.9

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise CompositionError(f"spread must not be negative, got {self.spread}")

    def __call__(self, ctx: Context, count: int) -> Tasks:
        every = torch.arange(ctx.world.size)
        left = every[~torch.isin(every, torch.tensor(ctx[RETIRED], dtype=torch.int64))]
        left = left if len(left) else every
        return in_epochs(ctx, left, count, "unretired")

    def after(self, ctx: Context, done: Round) -> None:
        spread, mean = statistics(done.judged)
        solved = done.judged.row["task"][(spread < self.spread) & (mean > self.most) & done.judged.row["scored"]]
        ctx[RETIRED] = sorted({*ctx[RETIRED], *solved.tolist()})
