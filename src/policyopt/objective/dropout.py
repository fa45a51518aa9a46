"""Leaving out the steps that raise the variance of a surrogate most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Loss, PerStep, Seen
from policyopt.objective.surrogates import ClippedSurrogate, check_clip, log_ratio
from policyopt.ops.masked import select
from policyopt.types import Batch

KEPT, BEFORE, AFTER = "surrogate_kept", "surrogate_variance", "surrogate_variance_kept"


def cross_terms(surrogate: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """phi_t = u_t sum_{k != t} u_k. n^2 Var(u) = (n - 1) sum u_t^2 - sum phi_t: a small phi is a large contribution."""
    return surrogate * (surrogate.sum() - surrogate)


def dropped(score: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """Of the scores >= 0, and of those below 0, the floor(share * count) smallest; the first among equals."""
    out = torch.zeros_like(score, dtype=torch.bool)
    for chosen in (score >= 0, score < 0):
        places = chosen.nonzero()[:, 0]
        order = places[score[places].argsort(stable=True)]
        out[order[: math.floor(share * len(places))]] = True
    return out


def kept_steps(seen: Seen, batch: Batch) -> Tensor:
    """Trained steps that the surrogate's dropout kept."""
    return batch.trained & batch.step[KEPT]


@dataclass(frozen=True)
class SurrogateDropout(Loss):
    """PPO's clipped surrogate without the steps whose products with all others are smallest (D-PPO, arXiv 2310.20380):
    `share` of those with phi >= 0 and of those with phi < 0, chosen anew for every optimiser step, from all its rows
    and without gradient. The term's mask must be `kept_steps`, so that its average is over kept steps.

    Metrics: the variance of u = r A over the step's samples, before and after.
    """

    clip_low: PerStep = 0.2
    clip_high: PerStep = 0.2
    share: float = 0.2

    formula = (
        "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) on kept steps, 0 on dropped ones; phi_t = u_t "
        "sum_{k != t} u_k, u = r A: of each sign the smallest are dropped"
    )
    reads = ("advantage",)
    roles = ("old",)

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        if not 0 <= self.share < 1:
            raise CompositionError(f"the share to drop must be in 0..1, below 1, not {self.share}")

    @property
    def _surrogate(self) -> ClippedSurrogate:
        return ClippedSurrogate(self.clip_low, self.clip_high)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        own = batch.trained
        products = (log_ratio(seen, batch).exp() * select(own, batch.step["advantage"]))[own].double()
        out = dropped(cross_terms(products), self.share)
        columns = {KEPT: own.masked_scatter(own, ~out)}
        for name, of in ((BEFORE, products), (AFTER, products[~out])):
            variance = float(of.var(correction=0)) if len(of) else 0.0
            columns[name] = torch.full_like(batch.step["advantage"], variance)
        return batch.with_steps(columns)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        if KEPT not in batch.step:  # asked apart from an optimiser step: the batch is all there is
            with torch.no_grad():
                batch = self.plan(seen, batch)
        return select(kept_steps(seen, batch), self._surrogate(seen, batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        variances = {"variance": batch.step[BEFORE], "variance_kept": batch.step[AFTER]}
        return {**self._surrogate.watch(seen, batch), **variances}
