"""A clipped surrogate whose range is searched at every optimiser step, until right and wrong steps are in balance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.surrogates import ClippedSurrogate, log_ratio
from policyopt.ops.masked import select
from policyopt.types import Batch

Counted = Literal["value", "gradient"]
Bound = Literal["high", "low"]

LOW, HIGH = "clip_low", "clip_high"
SMALL = 1e-9
"""Bounds are sums of many small numbers."""


@dataclass(frozen=True)
class BalancedClip(Loss):
    """BAPO (arXiv 2510.18927, eq. 8 and algorithm 1). The share of steps with A >= 0 in the surrogate, P / (P + N), is
    raised to `share`: the upper bound of the ratio goes up from `high` to `high_end` by `high_by`, and if that is not
    enough the lower from `low` to `low_end` by `low_by`; bounds are ratios. Then the clipped surrogate with them.

    counted: what P and N sum over, "value" clamped surrogates (paper and code: raising the lower bound can then only
    raise N, so once begun it always ends at low_end), "gradient" those of steps that are not clipped. first: which
    bound is searched first ("low": the released code). quotient: `share` is compared with P / N, as in the released
    code. dual_clip: as in ClippedSurrogate (3 in the released code, none in the paper).
    """

    share: float = 0.4
    low: float = 0.6
    low_end: float = 0.9
    low_by: float = 0.02
    high: float = 1.2
    high_end: float = 3.0
    high_by: float = 0.05
    dual_clip: float | None = None
    counted: Counted = "value"
    quotient: bool = False
    first: Bound = "high"

    formula = "max(-A r, -A clip(r, c_low, c_high)), the least c_high and then c_low with P / (P + N) >= share"
    reads = ("advantage",)
    roles = ("old",)

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.low_end <= 1 <= self.high <= self.high_end or self.high == 1:
            raise CompositionError(
                "bounds are ratios with 0 < low <= low_end <= 1 < high <= high_end, got "
                f"{self.low}, {self.low_end}, {self.high} and {self.high_end}"
            )
        if self.share < 0 or self.low_by <= 0 or self.high_by <= 0 or self.counted not in get_args(Counted):
            raise CompositionError(
                "need share >= 0, steps above 0 and counted 'value' or 'gradient', got "
                f"{self.share}, {self.low_by}, {self.high_by} and {self.counted!r}"
            )
        if self.first not in get_args(Bound):
            raise CompositionError(f"first is one of {', '.join(get_args(Bound))}, not {self.first!r}")
        self.inner()

    def inner(self) -> ClippedSurrogate:
        """The surrogate with the bounds that were planned."""
        return ClippedSurrogate(
            lambda batch: batch.row[LOW][:, None], lambda batch: batch.row[HIGH][:, None], self.dual_clip
        )

    def balance(self, ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """P and N of the steps given."""
        good, bad = advantage >= 0, advantage < 0
        if self.counted == "gradient":
            return (ratio * advantage)[good & (ratio <= high)].sum(), -(ratio * advantage)[bad & (ratio >= low)].sum()
        return (ratio.clamp(max=high) * advantage)[good].sum(), -(ratio.clamp(min=low) * advantage)[bad].sum()

    def search(self, ratio: Tensor, advantage: Tensor, total: Any) -> tuple[float, float]:
        """Both bounds; `total` sums over ranks, so that all have one pair."""

        def balanced(low: float, high: float) -> bool:
            good, bad = (float(total(x)) for x in self.balance(ratio, advantage, low, high))
            whole = bad if self.quotient else good + bad
            return bad <= 0 or good >= self.share * whole

        low, high = self.low, self.high
        for bound in ("high", "low") if self.first == "high" else ("low", "high"):
            while bound == "high" and high < self.high_end - SMALL and not balanced(low, high):
                high = min(high + self.high_by, self.high_end)
            while bound == "low" and low < self.low_end - SMALL and not balanced(low, high):
                low = min(low + self.low_by, self.low_end)
        return low, high

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        ratio, own = log_ratio(seen, batch).clamp(-20, 20).exp().detach(), batch.trained
        total: Any = getattr(seen, "ctx").total  # noqa: B009
        low, high = self.search(ratio[own], batch.step["advantage"][own], total)
        like = torch.ones(len(batch), dtype=ratio.dtype, device=ratio.device)
        return batch.with_rows({LOW: (1 - low) * like, HIGH: (high - 1) * like})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return self.inner()(seen, batch if LOW in batch.row else self.plan(seen, batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        ratio, advantage = log_ratio(seen, batch).exp(), select(batch.trained, batch.step["advantage"])
        good, bad = (ratio * advantage).clamp(min=0), (-ratio * advantage).clamp(min=0)
        bounds = {name: batch.row[name][:, None].expand_as(ratio) for name in (LOW, HIGH)}
        return {**self.inner().watch(seen, batch), **bounds, "good": good, "bad": bad}
