"""Rewards of critiques by what others make of them."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last, total_reward
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class RefinementReward(Part):
    """Adds to a critique's reward, if it rightly found a solution wrong, the share of `count` refinements by a frozen
    model that are right once they read it (RefCritic, arXiv 2507.15024). Comes after the reward of the verdict.

    The world says which critiques call their solution wrong, `judged_wrong(batch) -> (B,)`, begins the refinement of
    each, `refine(batch) -> Batch` of rows that go on, and which finished ones are right, `refined(rows) -> (B,)`.
    right: verdicts with a reward above it are right.
    """

    weight: float = 1.0
    count: int = 4
    model: str = "solver"
    temperature: float = 1.0
    right: float = 0.5

    needs = "a world whose solutions are refined by what critiques say"
    formula = "R_b += weight mean_{j <= count} 1[refinement j is right], if b rightly judges its solution wrong"

    def __post_init__(self) -> None:
        if self.count < 1 or self.temperature < 0:
            raise CompositionError(
                f"need at least one refinement and a temperature of 0 or more, got {self.count} and {self.temperature}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        what = "what becomes of criticised solutions"
        wrong, refine, refined = (asked(ctx.world, name, what) for name in ("judged_wrong", "refine", "refined"))
        counted = wrong(batch) & (total_reward(batch) > self.right) & batch.row["scored"]
        rows = counted.nonzero()[:, 0]
        if not len(rows):
            return batch
        begun = refine(batch[rows.repeat_interleave(self.count)])
        done = refined(ctx.extend(begun, self.model, self.temperature)).to(batch.step["reward"])
        share = done.new_zeros(len(batch)).index_copy(0, rows, done.view(-1, self.count).mean(1))
        ctx.meter.mean("refined_right", share, counted)
        return batch.with_steps({"reward": batch.step["reward"] + on_last(batch, self.weight * share)})
