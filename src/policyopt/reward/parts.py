"""Rewards from the world's grader, from the world's own steps, and shaping of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import select
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch, Finish


@dataclass(frozen=True)
class Verified(Part):
    """The world's grade of a finished row, on its last own step; a world that pays every step grades them all.

    truncated: the reward of a row that a limit ended (None: graded like any other; worlds that grade rows only). A
    grade of nan means that the grader failed; the row is unscored.
    """

    truncated: float | None = None

    formula = "R_b = grade(row b), on the last own step, or r_bt where every step is paid"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        grade = ctx.world.grade(batch).to(batch.step["reward"])
        if grade.dim() == 2:
            return self._paid_steps(batch, grade)
        if self.truncated is not None:
            grade = torch.where(batch.row["finish"] == Finish.TRUNCATED, self.truncated, grade)
        scored = torch.isfinite(grade)
        reward = on_last(batch, torch.where(scored, grade, torch.zeros_like(grade)))
        return batch.with_steps({"reward": reward}).with_rows({"scored": scored})

    def _paid_steps(self, batch: Batch, grade: Tensor) -> Batch:
        if self.truncated is not None:
            raise CompositionError(
                "reward.truncated replaces the grade of a row, but this world pays every step; set it to none"
            )
        fine = torch.isfinite(grade)
        scored = (fine | ~batch.valid).all(1)
        return batch.with_steps({"reward": select(fine & batch.valid, grade)}).with_rows({"scored": scored})


@dataclass(frozen=True)
class FromWorld(Part):
    """The rewards that the world gave with each step."""

    formula = "r_bt from the world"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch


def overlong_penalty(length: torch.Tensor, limit: int, buffer: int) -> torch.Tensor:
    """0 up to limit - buffer, then linear down to -1 at the limit (arXiv 2503.14476, eq. 13). length: (B,)."""
    return ((limit - buffer - length) / buffer).clamp(min=-1.0, max=0.0)


@dataclass(frozen=True)
class OverlongPenalty(Part):
    """Adds DAPO's soft punishment of long rows to the last own step. limit, buffer: in own steps."""

    limit: int = 20480
    buffer: int = 4096

    formula = "R_b += clip((limit - buffer - |o_b|) / buffer, -1, 0)"

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.limit:
            raise CompositionError(f"buffer must be in 1..limit, got buffer {self.buffer}, limit {self.limit}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        penalty = overlong_penalty(batch.lengths.to(batch.step["reward"]), self.limit, self.buffer)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, penalty)})


@dataclass(frozen=True)
class ReferencePenalty(Part):
    """Reward shaping r_t -= beta (log pi_behaviour - log pi_reference) on own steps: KL in the reward.

    Unlike a KL term in the loss it is part of the return, so credit assigns it to earlier steps as well. One of
    both, never both.
    """

    beta: float = 0.03

    penalises: ClassVar[str] = "reference"
    formula = "r_bt -= beta (log pi_behaviour(bt) - log pi_ref(bt))"

    roles = ("reference",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            reference = SeenBatch(ctx, batch)["reference"].detach()
        # Rows of a data set were sampled by nobody: there is no distance to charge.
        sampled = batch.own & ~batch.step["behaviour"].isnan()
        gap = torch.where(sampled, batch.step["behaviour"] - reference.logp, 0.0)
        ctx.meter.mean("reference_kl", gap, sampled)
        shaped = batch.step["reward"] - self.beta * gap
        return batch.with_steps({"reward": shaped}).with_scores({"reference": reference})
