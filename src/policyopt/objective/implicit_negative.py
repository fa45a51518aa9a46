"""Maximum likelihood on right rows, and on wrong rows of the policy that the wrong ones imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.implicit import log_change, right_rows
from policyopt.ops.groups import group_mean
from policyopt.types import Batch

Weighting = Literal["linear", "root", "none"]

SHARE = "right_share"
LARGEST = 10.0
"""Log-ratios are cut here, as in the released code."""


def raised(x: Tensor, floor: float) -> Tensor:
    """max(x, floor) with the gradient of x."""
    return x + (x.clamp(min=floor) - x).detach()


@dataclass(frozen=True)
class ImplicitNegative(Loss):
    """NFT (arXiv 2505.18116), per step. With q the share of right rows in a row's group, the policy that wrote the rows
    is q times that of the right ones plus 1 - q times that of the wrong ones; so the ratio of the policy in training,
    which is to be the right rows' one, implies a ratio of the wrong rows' one, and that is raised on wrong rows.

    weighting: of groups by q, "linear" 1 - q, "root" sqrt((1 - q) / q), "none" 1. negative: weight of wrong rows (0:
    rejection fine-tuning). Both ratios are kept above a floor in value, not in gradient. least: q stays in
    least..1 - least. Right: a reward above `threshold`.
    """

    weighting: Weighting = "linear"
    negative: float = 1.0
    floor_right: float = 0.0
    floor_wrong: float = 1.0
    least: float = 0.02
    threshold: float = 0.5

    formula = (
        "right: -w(q) log r, wrong: -negative w(q) log max((1 - q r) / (1 - q), floor_wrong), r = exp(log pi - log "
        "pi_old); w = 1 - q, sqrt((1 - q) / q) or 1"
    )
    roles = ("old",)

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise CompositionError(f"weighting is one of {', '.join(get_args(Weighting))}, not {self.weighting!r}")
        if self.negative < 0 or self.floor_right < 0 or self.floor_wrong <= 0 or not 0 < self.least <= 0.5:
            raise CompositionError(
                "need negative and floor_right of 0 or more, floor_wrong above 0 and least in 0..0.5, got "
                f"{self.negative}, {self.floor_right}, {self.floor_wrong} and {self.least}"
            )

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        right = right_rows(batch, self.threshold).to(torch.get_default_dtype())
        share = group_mean(right, batch.row["group"], batch.trained.any(1))
        return batch.with_rows({SHARE: share.clamp(self.least, 1 - self.least)})

    def change(self, seen: Seen, batch: Batch) -> Float[Tensor, "B T"]:
        return log_change(seen, batch, "old")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        batch = batch if SHARE in batch.row else self.plan(seen, batch)
        change = self.change(seen, batch).clamp(max=LARGEST)
        ratio = change.exp()
        shape = (len(batch), *(1,) * (change.dim() - 1))
        q, right = batch.row[SHARE].to(ratio).view(shape), right_rows(batch, self.threshold).view(shape)
        good = change if self.floor_right == 0 else raised(ratio, self.floor_right).log()
        bad = self.negative * raised((1 - q * ratio) / (1 - q), self.floor_wrong).log()
        weight = {"linear": 1 - q, "root": ((1 - q) / q).sqrt(), "none": torch.ones_like(q)}[self.weighting]
        return -weight * torch.where(right, good, bad)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"ratio": self.change(seen, batch).exp()}


@dataclass(frozen=True)
class SequenceImplicitNegative(ImplicitNegative):
    """The same with one ratio per row, the product of its steps' ratios (a variant of the paper)."""

    def change(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        return log_change(seen, batch, "old").sum(1)
