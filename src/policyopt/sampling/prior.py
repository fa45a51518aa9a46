"""Rows that remember the initial noise's distribution as it was when they were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.types import Batch

PRIOR = "_prior"
"""Row column (B, 2 D): mean and std of the policy's prior when the row was drawn."""


@dataclass(frozen=True)
class WithPrior(Part):
    """`size` attempts of every task, with the column `_prior` for critics whose input is the policy's own numbers."""

    size: int = 8

    writes = (PRIOR,)

    def __post_init__(self) -> None:
        Group(self.size)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        prior: Any = getattr(ctx.models["policy"], "prior", None)
        if not hasattr(prior, "mean") or not hasattr(prior, "std"):
            raise CompositionError(
                "this sampling remembers a learned prior, which the policy lacks; make it with prior=LearnedPrior(dims)"
            )
        batch = Group(self.size)(ctx, draw, judge)
        numbers = torch.cat([prior.mean, prior.std]).detach()
        return batch.with_rows({PRIOR: numbers.expand(len(batch), -1).clone()})
