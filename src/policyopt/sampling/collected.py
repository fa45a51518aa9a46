"""Rows of several rounds that together look like the policy's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.sampling.samplers import Draw, Judge, attempt
from policyopt.types import Batch, Round, concatenate

RECENT = Cell("rows of recent rounds", list)
"""A judged Batch per round, the oldest first."""


@dataclass(frozen=True)
class UnderSampled(Part):
    """Rows of this round and of the last `batches` - 1, collected such that all of them together are distributed as if
    the policy had taken them (PROPS, arXiv 2311.08290): on-policy data without on-policy sampling.

    The round's tasks come in `pieces`. Before each, the model `sampler` becomes the policy and `adapt` (ctx, rows so
    far, their column `advantage` -1 everywhere) makes what they hold too often less likely; then it takes the steps.
    adapt None: every piece is the policy's own.
    """

    size: int = 1
    batches: int = 2
    pieces: int = 4
    adapt: Callable[[Any, Batch], None] | None = None
    model: str = "sampler"

    formula = "sampler: min mean_D max(rho, clip(rho, 1 - e, 1 + e)), rho = sampler / policy, D all rows so far"

    def __post_init__(self) -> None:
        if min(self.size, self.batches, self.pieces) < 1:
            raise CompositionError(
                f"size, batches and pieces are at least 1, got {self.size}, {self.batches} and {self.pieces}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks, held = draw(), list(ctx[RECENT])
        like, found = ctx.world.start(tasks[:1]), []
        for rows in torch.arange(len(tasks)).tensor_split(min(self.pieces, len(tasks))):
            ctx.models[self.model].load_state_dict(ctx.models["policy"].state_dict())
            so_far = [with_columns_of(batch, like) for batch in (*held, *found)]
            if self.adapt is not None and so_far:
                every = concatenate(so_far)
                self.adapt(ctx, every.with_steps({"advantage": -torch.ones_like(every.step["behaviour"])}))
            found.append(attempt(ctx, tasks[rows], self.size, 1.0, self.model))
        fresh = judge(concatenate(found))
        return concatenate([*held, fresh]) if held else fresh

    def after(self, ctx: Context, done: Round) -> None:
        super().after(ctx, done)
        rows = done.judged
        fresh = rows[rows.row["group"] >= ctx.step << 20]  # groups are numbered by round
        kept = [*ctx[RECENT], Batch(fresh.row, fresh.step)]
        ctx[RECENT] = kept[len(kept) - self.batches + 1 :]


def with_columns_of(batch: Batch, like: Batch) -> Batch:
    """With the columns of rows that nobody judged yet."""
    return Batch({name: batch.row[name] for name in like.row}, {name: batch.step[name] for name in like.step})
