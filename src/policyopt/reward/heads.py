"""Several named rewards of one row, each in a column of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.types import Batch


@dataclass(frozen=True)
class HeadRewards(Part):
    """The world's grades by name (`grade_heads`): columns `reward:NAME` on the last own step; `reward` is their plain
    sum, for metrics. A row that one grader failed on (nan) is unscored."""

    names: tuple[str, ...] = ("reward",)

    needs = "a world that grades rows by several names"
    formula = "R_b^h = grade_h(row b), R_b = sum_h R_b^h"

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(f"reward:{name}" for name in self.names)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        if not hasattr(ctx.world, "grade_heads"):
            raise CompositionError(
                f"rewards by head need a world with several rewards; {type(ctx.world).__name__} has one: use "
                "reward=verified"
            )
        given = ctx.world.grade_heads(batch)
        if set(given) != set(self.names):
            raise CompositionError(f"reward.names must be the world's rewards {sorted(given)}, not {self.names}")
        grades = torch.stack([given[name].to(batch.step["reward"]) for name in self.names])
        scored = torch.isfinite(grades).all(0)
        grades = torch.where(scored, grades, torch.zeros_like(grades))
        columns = {f"reward:{name}": on_last(batch, grade) for name, grade in zip(self.names, grades, strict=True)}
        return batch.with_steps({**columns, "reward": on_last(batch, grades.sum(0))}).with_rows({"scored": scored})
