"""Preference pairs from rows of earlier rounds, made by what a verifier says of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Judge
from policyopt.sampling.store import ROWS, fresh, store, stored
from policyopt.seen import asked
from policyopt.types import Batch, Round, Source, concatenate


@dataclass(frozen=True)
class StoreRows(Part):
    """After hook: the round's own rows are kept, of every task the newest `capacity`, for a later stage to read."""

    capacity: int = 32

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise CompositionError(f"at least one row of a task is kept, not {self.capacity}")

    def __call__(self, ctx: Context, done: Round) -> None:
        store(ctx, fresh(done.judged), self.capacity)


@dataclass(frozen=True)
class StoredPairs(Part):
    """Pairs of stored rows (VerIPO, arXiv 2505.19000): of every drawn task a random good row against a random row of
    every cause for rejection. Good: a reward of at least `right` and every check of the world passed. Causes: a lower
    reward; a right row that fails the first check, the second ... (answer at odds with the reasoning, repetition, too
    short). A task without both sides makes no pair, its rows have rank -1.
    """

    right: float = 1.0

    writes = ("pair", "rank")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        found, rng = [], ctx.rng("verified pairs")
        for task in draw().id.tolist():
            rows = stored(ctx, task)
            if rows is not None:
                found.extend(self.of_task(rows, asked(ctx.world, "checks", "what a verifier checks")(rows), rng))
        if not found:
            return judge(self.without_pairs(ctx))
        batch = concatenate([pair for pair, _ in found])
        number = torch.arange(len(found), device=batch.device).repeat_interleave(2)
        rank = torch.tensor([0, 1], device=batch.device).repeat(len(found))
        ctx.meter.add("pairs", len(found), 1)
        source = torch.full_like(batch.row["source"], int(Source.REPLAY))
        return judge(batch.with_rows({"pair": number, "rank": rank, "source": source}))

    def of_task(self, rows: Batch, checks: Tensor, rng: torch.Generator) -> list[tuple[Batch, int]]:
        """(two rows, the good one first; the cause: 0 wrong, j for the j-th check) of one task."""
        right = (total_reward(rows) >= self.right) & rows.row["scored"]
        passed = (checks >= 1) | checks.isnan()
        causes = [~right & rows.row["scored"], *(right & ~passed[:, j] for j in range(passed.shape[1]))]
        good = (right & passed.all(1)).nonzero()[:, 0]
        made = []
        for cause, bad in enumerate(mask.nonzero()[:, 0] for mask in causes):
            if len(good) and len(bad):
                pick = [int(side[torch.randint(len(side), (1,), generator=rng)]) for side in (good, bad)]
                made.append((rows[torch.tensor(pick, device=rows.device)], cause))
        return made

    def without_pairs(self, ctx: Context) -> Batch:
        """Some stored rows, which are no side of any pair: nothing is learned from them."""
        held = [rows for rows in ctx[ROWS].values() if len(rows)]
        if not held:
            raise CompositionError(
                "pairs are made of rows that an earlier stage stored, and none are; run a stage with "
                "after=(StoreRows(),) before this one"
            )
        rows = held[0][:1]
        none = torch.full_like(rows.row["task"], -1)
        return rows.with_rows({"pair": none, "rank": none, "source": torch.full_like(none, int(Source.REPLAY))})
