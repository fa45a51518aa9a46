"""Dense rewards from tests that rows pass, weighted by how hard the tests are for the present group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.pieces import pieces
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch


def weights_of_tests(
    rates: Float[Tensor, " J"], slope: float, width: float | None, delta: float
) -> Float[Tensor, " J"]:
    """exp(-slope rho_j) / (N_j + delta), N_j = sum_k exp(-(rho_j - rho_k)^2 / (2 width^2)): how many tests are passed
    about as often. width 0: exactly as often. None: N_j = 1 (arXiv 2601.03525)."""
    gap = (rates[:, None] - rates[None]) ** 2
    if width is None:
        crowd = torch.ones_like(rates)
    elif width == 0:
        crowd = (gap == 0).to(rates.dtype).sum(1)
    else:
        crowd = (-gap / (2 * width**2)).exp().sum(1)
    return (-slope * rates).exp() / (crowd + delta)


def by_group(
    passed: Float[Tensor, "n J"], group: Int[Tensor, " n"], slope: float, width: float | None, delta: float
) -> Float[Tensor, " n"]:
    """The weighted sum of the tests a row (or turn) passes, by the rates at which its group passes them. nan: a test
    that the task does not have."""
    out = passed.new_zeros(len(passed))
    for one in group.unique():
        rows = group == one
        there = passed[rows][:, ~passed[rows].isnan().all(0)].nan_to_num(0.0)
        out[rows] = there @ weights_of_tests(there.mean(0), slope, width, delta)
    return out


@dataclass(frozen=True)
class WeightedTests(Part):
    """What each turn's tests are worth, on the turn's last own step (column `reward:turn`), and `gamma` to the number
    of turns if the last turn passes them all, on the row's (column `reward`) (VeRPO, arXiv 2601.03525).

    The world's `checks(batch)` says which tests are passed: (B, J) by finished rows of one turn, or (B, T, J) after
    every step. A test weighs more the fewer of the group's turns pass it (slope), and less the more tests are passed
    about as often (width, in rates; None: no such correction).
    """

    slope: float = 2.0
    width: float | None = 0.1
    delta: float = 1e-6
    gamma: float = 0.9

    version = 2
    needs = "a world that checks rows"
    formula = "r_k = sum_j w_j p_kj, w_j = exp(-slope rho_j) / (N_j + delta); R_b = gamma^turns 1[all tests pass]"
    writes = ("reward:turn",)

    def __post_init__(self) -> None:
        if self.slope < 0 or (self.width is not None and self.width < 0) or self.delta < 0:
            raise CompositionError(
                f"slope, width and delta must not be negative, got {self.slope}, {self.width} and {self.delta}"
            )
        if not 0 < self.gamma <= 1:
            raise CompositionError(f"gamma must be above 0 and at most 1, got {self.gamma}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        said = asked(ctx.world, "checks", "which of its tests a row passes")(batch).to(batch.step["reward"])
        turns = pieces(batch, "turn")
        passed = said[turns.row] if said.dim() == 2 else said[turns.row, turns.last]
        dense = by_group(passed, batch.row["group"][turns.row], self.slope, self.width, self.delta)
        count = torch.bincount(turns.row, minlength=len(batch))
        final = torch.zeros_like(batch.row["task"], dtype=torch.bool)
        # Turns are in order of time: the last one of a row is written last.
        ends = turns.place + 1 == count[turns.row]
        # A row of which no test is known (a task without any, a grader that failed) has passed nothing.
        final[turns.row[ends]] = (((passed >= 1) | passed.isnan()).all(1) & ~passed.isnan().all(1))[ends]
        ctx.meter.mean("all_tests_passed", final.to(said.dtype), batch.row["scored"])
        whole = torch.where(final, self.gamma ** count.to(said.dtype), 0.0)
        return batch.with_steps(
            {"reward": on_last(batch, whole), "reward:turn": turns.on_last(dense, batch.step["reward"])}
        )
