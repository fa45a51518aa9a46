"""Two models that choose for each other what is learned from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.seen import SeenBatch
from policyopt.types import Batch


def largest_margins(margin: Float[Tensor, " pairs"], keep: float) -> Bool[Tensor, " pairs"]:
    """The ceil(keep n) pairs with the largest margins (the smallest Bradley-Terry losses), the first among equals."""
    count = math.ceil(keep * len(margin) - 1e-9)
    chosen = margin.argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(margin, dtype=torch.bool).index_fill(0, chosen, 1)


def keep_rate(epoch: int, noise: float, ramp: int) -> float:
    """1 - noise min(1, epoch / ramp)."""
    return 1 - noise * min(1.0, epoch / ramp)


@dataclass(frozen=True)
class PeerReview(Part):
    """CRM (arXiv 2505.10597): of the pairs at hand each of two reward models learns from those that the other finds the
    cleanest. Row columns `taught:MODEL` on chosen rows, for masks; without gradient.

    noise: the share of labels taken to be wrong; the share of pairs kept falls to 1 - noise over `ramp` epochs.
    """

    first: str = "first"
    second: str = "second"
    noise: float = 0.4
    ramp: int = 10

    needs = "rewards of whole rows"
    formula = (
        "a learns S_b, S_b = the ceil(lam n) pairs of largest r_b(y_w) - r_b(y_l), lam = 1 - noise min(1, e / ramp)"
    )
    reads = ("pair", "rank")
    critics = named_by("first", "second")

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 1 or self.ramp < 1 or self.first == self.second:
            raise CompositionError(
                f"need noise in 0..1 (less than 1), ramp >= 1 and two models, got {self.noise}, {self.ramp}, "
                f"{self.first!r} and {self.second!r}"
            )

    @property
    def writes(self) -> tuple[str, ...]:
        return (f"taught:{self.first}", f"taught:{self.second}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        chosen, rejected = pair_rows(batch).T
        keep = keep_rate(max(0, ctx.drawn - len(chosen)) // ctx.world.size, self.noise, self.ramp)
        ctx.meter.add("kept_share", keep, 1)
        with torch.no_grad():
            seen = SeenBatch(ctx, batch)
            worth = {model: seen.worth(model) for model in self.critics}
        columns = {}
        for model, peer in ((self.first, self.second), (self.second, self.first)):
            clean = largest_margins(worth[peer][chosen] - worth[peer][rejected], keep)
            columns[f"taught:{model}"] = at_rows(clean.to(worth[peer].dtype), chosen, len(batch)) > 0
        return batch.with_rows(columns)
