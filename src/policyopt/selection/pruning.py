"""Leaving out rows and steps whose advantages are small, so that updates cost less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.schedules import progress, ramp
from policyopt.seen import SeenBatch
from policyopt.selection.extremes import row_advantage
from policyopt.types import Batch


def check_share(share: float, what: str) -> None:
    if not 0 < share <= 1:
        raise CompositionError(f"{what} is a share above 0 and at most 1, not {share}")


def whole(share: float, count: int) -> int:
    """max(1, floor(share count)); the sum of 1e-9 because 10 * (1 - 0.9) must be 1."""
    return max(1, math.floor(share * count + 1e-9))


@dataclass(frozen=True)
class LargestAdvantages(Part):
    """Of every group the share `keep` of rows with the largest |advantage| (CPPO, arXiv 2503.22342; its pruning rate is
    1 - keep); at least one row of every group, among equals the first, unscored rows never. What was dropped counts in
    nobody's statistics any more: advantages come first.

    pick: "smallest" and "random" are the paper's controls. by: "round" compares the rows of the whole round.
    """

    keep: float = 0.5
    pick: Literal["largest", "smallest", "random"] = "largest"
    by: Literal["group", "round"] = "group"

    formula = "the max(1, floor(keep G)) rows of a group of largest |A_b|"

    reads = ("advantage",)

    def __post_init__(self) -> None:
        check_share(self.keep, "keep")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        score = row_advantage(batch, {"advantage": 1.0}).abs()
        if self.pick == "smallest":
            score = -score
        if self.pick == "random":
            score = torch.rand(len(batch), generator=ctx.rng("pruning"), dtype=torch.float64).to(score)
        group = batch.row["group"] if self.by == "group" else torch.zeros_like(batch.row["group"])
        kept = [group.new_zeros(0)]
        for one in group.unique():
            rows = ((group == one) & batch.row["scored"]).nonzero()[:, 0]
            order = rows[score[rows].argsort(descending=True, stable=True)]
            kept.append(order[: whole(self.keep, len(rows))])
        return batch[torch.cat(kept).sort().values]


def most_varied(values: Float[Tensor, " M"], count: int) -> Int[Tensor, " N"]:
    """The `count` places whose values have the largest variance: k of the largest and count - k of the smallest, with
    the best k in 0..count (the smallest such k)."""
    order = values.argsort(descending=True, stable=True)
    ends = [torch.cat([order[:k], order[len(order) - (count - k) :]]) for k in range(count + 1)]
    spread = torch.stack([values[rows].var(correction=0) for rows in ends])
    return ends[int(spread.argmax())]


@dataclass(frozen=True)
class MostVaried(Part):
    """The rows of the round, across groups, whose advantages have the largest variance (D3S, arXiv 2509.22115): a share
    of them that goes on a line from `keep` to `final` (None: constant) over the rounds. Unscored rows never."""

    keep: float = 0.25
    final: float | None = None

    formula = "argmax over sets of N rows of Var(A_b), N = keep M rising to final M"

    reads = ("advantage",)

    def __post_init__(self) -> None:
        check_share(self.keep, "keep")
        check_share(self.keep if self.final is None else self.final, "final")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        rows = batch.row["scored"].nonzero()[:, 0]
        if not len(rows):
            return batch[rows]
        final = self.keep if self.final is None else self.final
        share = ramp(self.keep, final, progress(ctx.stage_step, ctx.stage_total))
        advantage = row_advantage(batch, {"advantage": 1.0})[rows]
        return batch[rows[most_varied(advantage, whole(share, len(rows)))].sort().values]


@dataclass(frozen=True)
class LargestSteps(Part):
    """Of all trained steps the share with the largest |advantage| times entropy of the policy stays trained (D3S): the
    upper whole number of them; among equals the lower row, then the earlier step. The share goes on a line from `keep`
    to `final` (None: constant) over the rounds."""

    keep: float = 0.2
    final: float | None = None

    formula = "train_bt = 1 for the ceil(keep n) largest |A_bt| H_bt"

    reads = ("advantage",)
    writes = ("train",)
    roles = ("old",)

    def __post_init__(self) -> None:
        check_share(self.keep, "keep")
        check_share(self.keep if self.final is None else self.final, "final")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        final = self.keep if self.final is None else self.final
        share = ramp(self.keep, final, progress(ctx.stage_step, ctx.stage_total))
        with torch.no_grad():
            old = SeenBatch(ctx, batch).compute("old").detach()
        if old.entropy is None:
            raise CompositionError("this selection of steps needs the policy's entropies, which its scores do not give")
        trained = batch.trained
        score = (batch.step["advantage"].abs() * old.entropy)[trained]
        order = score.argsort(descending=True, stable=True)
        stays = torch.zeros(len(score), dtype=torch.bool, device=score.device)
        stays[order[: math.ceil(share * len(score) - 1e-9)]] = True
        return batch.with_steps({"train": torch.zeros_like(trained).masked_scatter(trained, stays)})
