"""What a run remembers of its tasks: one number per task under a name, in one cell of the run. Written after rounds
only, so that everything within a round sees the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, Context

TASKS = Cell("tasks", dict)
"""{name: (N,) float64}, as long as the largest task id that was noted; 0 stands for "nothing was noted"."""


def recall(ctx: Context, name: str, ids: Tensor) -> Tensor:
    """(B,) float64: what is noted for tasks (B,); 0 where nothing is."""
    held: Any = ctx[TASKS].get(name, ())
    column = torch.as_tensor(held, dtype=torch.float64).to(ids.device)
    known = ids < len(column)
    found = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    found[known] = column[ids[known]]
    return found


def note(ctx: Context, name: str, ids: Tensor, values: Tensor) -> None:
    """Replace what is noted for tasks (M,), each named once, by values (M,). For `after` and `before` only."""
    if not len(ids):
        return
    ids = ids.cpu()
    held = ctx[TASKS].get(name, torch.zeros(0, dtype=torch.float64))
    column = torch.zeros(max(len(held), int(ids.max()) + 1), dtype=torch.float64)
    column[: len(held)] = held
    column[ids] = values.to("cpu", torch.float64)
    ctx[TASKS] = {**ctx[TASKS], name: column}


def noted(ctx: Context, name: str, size: int) -> Tensor:
    """(size,) what is noted for every task."""
    return recall(ctx, name, torch.arange(size))


def by_task(batch_ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The tasks that rows (B,) belong to, each once, and the sums of their rows' values (B,)."""
    ids, inverse = batch_ids.unique(return_inverse=True)
    sums = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    return ids, sums.index_add(0, inverse, values.to(sums))
