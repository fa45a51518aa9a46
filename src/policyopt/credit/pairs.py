"""Advantages of paired tasks, weighted by how well the pair fits."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class SimilarityWeighted(Part):
    """Advantages times max(s, 0) ** power of the row's similarity s, at most 1 (PairUni, arXiv 2510.25682: the root of
    the cosine of a retrieved pair, 1 for members that were made for each other)."""

    power: float = 0.5

    needs = "tasks that are drawn in pairs"
    formula = "A_bt *= min(max(s_b, 0) ** power, 1)"
    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.power < 0:
            raise CompositionError(f"the power of a similarity must not be negative, got {self.power}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        if "similarity" not in batch.row:
            raise CompositionError(
                "rows have no similarity: draw tasks in pairs (selection.tasks=PairedTasks()) from a world that has "
                "them"
            )
        similarity = batch.row["similarity"].to(batch.step["advantage"].dtype)
        weight = (similarity.clamp(min=0) ** self.power).clamp(max=1)
        return batch.with_steps({"advantage": batch.step["advantage"] * weight[:, None]})
