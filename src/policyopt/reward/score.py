"""What a row was worth before other rewards were added."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import Context, Part
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class ScoreSoFar(Part):
    """Row column `score`: the sum of the rewards that were given so far, for parts that must not see those for form."""

    formula = "score_b = R_b so far"
    writes = ("score",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch.with_rows({"score": total_reward(batch)})
