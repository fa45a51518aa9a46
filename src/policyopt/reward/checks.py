"""Rewards from many small checks of one row: unit tests, constraints, key steps."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Context, Part
from policyopt.ops.masked import select
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch


def passed_share(checks: Float[Tensor, "B J"]) -> Float[Tensor, " B"]:
    """The mean of a row's checks, each in 0..1; nan: a check that the row's task does not have. Without any, 0."""
    known = ~checks.isnan()
    return select(known, checks).sum(1) / known.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Checked(Part):
    """Adds `weight` times the share of the row's checks that it passes (`world.checks`). every: only a row that passes
    all of them gets anything, and it gets `weight`."""

    weight: float = 1.0
    every: bool = False

    needs = "a world that checks rows"
    formula = "R_b += weight mean_j check_j(row b)   (every: weight 1[all checks pass])"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        checks = asked(ctx.world, "checks", "which of its checks a row passes")(batch).to(batch.step["reward"])
        share = passed_share(checks)
        ctx.meter.mean("checks_passed", share, batch.row["scored"])
        if self.every:
            passes = (checks.isnan() | (checks >= 1)).all(1) & ~checks.isnan().all(1)
            share = passes.to(share.dtype)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, self.weight * share)})
