"""Only the best and the worst rows of a group are trained on. Rows are compared by their advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import masked_mean
from policyopt.types import Batch


def row_advantage(batch: Batch, weights: Mapping[str, float]) -> Tensor:
    """(B,) the weighted sum of several columns of advantages, each averaged over a row's own steps."""
    return torch.stack([w * masked_mean(batch.step[name], batch.own) for name, w in weights.items()]).sum(0)


@dataclass(frozen=True)
class BestAndWorst(Part):
    """Of every group the keep / 2 rows of largest and the keep / 2 of smallest advantage (DanceGRPO's best-of-N, arXiv
    2505.07818, section 3.4); groups of at most `keep` rows entirely. Among equals the first; unscored rows never.

    weights: the columns of advantages that are added up, with their weights.
    """

    keep: int = 8
    weights: Mapping[str, float] = field(default_factory=lambda: {"advantage": 1.0})

    formula = "the best keep/2 and the worst keep/2 of a group by sum_h w_h A^h"

    def __post_init__(self) -> None:
        if self.keep < 2 or self.keep % 2:
            raise CompositionError(f"keep takes half from each end: an even number of at least 2, not {self.keep}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        advantage, group = row_advantage(batch, self.weights), batch.row["group"]
        kept = [group.new_zeros(0)]
        for one in group.unique():
            rows = ((group == one) & batch.row["scored"]).nonzero()[:, 0]
            order = rows[advantage[rows].argsort(descending=True, stable=True)]
            half = self.keep // 2
            kept.append(order if len(order) <= self.keep else torch.cat([order[:half], order[-half:]]))
        return batch[torch.cat(kept).sort().values]


@dataclass(frozen=True)
class ClearExtremes(Part):
    """Of every group the best row if its advantage is at least `high`, and the worst if it is below `low` (B2-DiffuRL,
    arXiv 2503.11240). Among equals the first; a row that is both is kept once; unscored rows never."""

    high: float = 0.5
    low: float = -0.5

    formula = "argmax_g A if max_g A >= high; argmin_g A if min_g A < low"

    reads = ("advantage",)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise CompositionError(f"low must not be above high, got {self.low} and {self.high}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        advantage, group = row_advantage(batch, {"advantage": 1.0}), batch.row["group"]
        keep = torch.zeros_like(batch.row["scored"])
        for one in group[batch.row["scored"]].unique():
            rows = ((group == one) & batch.row["scored"]).nonzero()[:, 0]
            best, worst = rows[advantage[rows].argmax()], rows[advantage[rows].argmin()]
            keep[best] |= advantage[best] >= self.high
            keep[worst] |= advantage[worst] < self.low
        return batch[keep]
