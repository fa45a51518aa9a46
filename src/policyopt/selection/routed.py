"""Which rows of a group are trained on depends on how many of it are right."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import Context, Part
from policyopt.ops.groups import group_count
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch, Source


@dataclass(frozen=True)
class RoutedRows(Part):
    """DYPO's routing (arXiv 2604.08926): of groups whose own rows are all wrong only the rows of the data, of mixed
    ones only the policy's own, of groups that are all right nothing. Right: a reward above `threshold`."""

    threshold: float = 0.5

    formula = "all wrong: rows of the data; mixed: own rows; all right: none"

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        ids, own = batch.row["group"], batch.row["source"] == Source.POLICY
        right, counted = total_reward(batch) > self.threshold, own & batch.row["scored"]
        good, bad = group_count(ids, counted & right), group_count(ids, counted & ~right)
        return batch[((good == 0) & ~own) | ((good > 0) & (bad > 0) & own)]
