"""Solved tasks that are mostly, not always, left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context
from policyopt.selection.solved import RETIRED, UnretiredTasks, statistics
from policyopt.types import Round


@dataclass(frozen=True)
class MostlyUnsolved(UnretiredTasks):
    """Tasks in epochs of random order; a task whose whole group has at least the reward `most` is left out from then on
    with probability `drop` (VerIPO, arXiv 2505.19000). If all are, all are drawn again."""

    spread: float = 1e-6
    most: float = 1 - 1e-6
    drop: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop <= 1:
            raise CompositionError(f"solved tasks are dropped with a probability in 0..1, not {self.drop}")

    def after(self, ctx: Context, done: Round) -> None:
        spread, mean = statistics(done.judged)
        solved = (spread < self.spread) & (mean > self.most) & done.judged.row["scored"]
        tasks = done.judged.row["task"][solved].unique().cpu()
        gone = torch.rand(len(tasks), generator=ctx.rng("dropped tasks"), dtype=torch.float64) < self.drop
        ctx[RETIRED] = sorted({*ctx[RETIRED], *tasks[gone].tolist()})
