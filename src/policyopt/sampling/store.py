"""Finished rows that are kept for later rounds, task by task: a cell of the run, so they are checkpointed bitwise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from policyopt.compose import Cell, Context
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch, Source, concatenate

ROWS = Cell("rows of tasks", dict)
"""{task id: Batch of its stored rows, oldest first}. Rows keep reward, behaviour log-probabilities and version."""


def trimmed(batch: Batch) -> Batch:
    """Without columns of steps in which every row is padding."""
    width = int(batch.valid.sum(1).max()) if len(batch) else 0
    return Batch(batch.row, {name: column[:, :width] for name, column in batch.step.items()})


def stored(ctx: Context, task: int) -> Batch | None:
    """The rows of a task, oldest first; None if there are none."""
    return ctx[ROWS].get(int(task))


def store(ctx: Context, batch: Batch, capacity: int) -> None:
    """Add rows to those of their tasks, of each the newest `capacity`. For `after` only. Rows that were replayed
    themselves must not be among them."""
    held: Mapping[int, Batch] = ctx[ROWS]
    added: dict[int, Batch] = {}
    for task in batch.row["task"].unique().tolist():
        new = batch[(batch.row["task"] == task).nonzero()[:, 0]]
        rows = concatenate([held[task], new]) if task in held else Batch(new.row, new.step)
        added[task] = trimmed(rows[max(0, len(rows) - capacity) :])
    ctx[ROWS] = {**held, **added}


def replayed(rows: Batch, group: int, like: Batch) -> Batch:
    """Stored rows as rows of a group of this round, with the columns that fresh rows have."""
    source = torch.full_like(rows.row["source"], int(Source.REPLAY))
    made = rows.with_rows({"source": source, "group": torch.full_like(rows.row["group"], group)})
    return Batch(
        {name: made.row[name] for name in like.row},
        {name: made.step[name] for name in like.step},
    )


def fresh(batch: Batch) -> Batch:
    """Rows that were sampled in this round."""
    return batch[batch.row["source"] != Source.REPLAY]


def worth(batch: Batch) -> Tensor:
    """(B,) float64: the rewards that rows were stored with."""
    return total_reward(batch).double()
