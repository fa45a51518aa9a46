"""Credit on two clocks: steps of the environment, each a chain of denoising steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.ops.masked import select
from policyopt.types import Batch, StepKind


def chain_ends(batch: Batch) -> Bool[Tensor, "B T"]:
    """True at the last denoising step of every chain: the own step after which the clock does not go on."""
    clock = torch.where(batch.own, batch.step["clock_denoise"], -1)
    ahead = torch.cat([clock[:, 1:], torch.full_like(clock[:, :1], -1)], 1)
    return batch.own & (ahead <= clock)


def own_end(ends: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The place of the first end at or after every step; T where there is none."""
    width = ends.shape[1]
    place = torch.where(ends, torch.arange(width, device=ends.device), width)
    return place.flip(1).cummin(1).values.flip(1)


@dataclass(frozen=True)
class OverDenoising(Part):
    """Credit of the environment's steps, given to all denoising steps of each (DPPO, arXiv 2409.00588, eq. 5.3).

    inner sees one step per chain, its last: the others look like a tool's steps. Its columns are then copied to the
    other steps of the chain. gamma: the discount towards noisier steps, gamma^(steps to the chain's end), written as
    the column `discount`; applied: the advantages are already multiplied by it (else the loss does it).
    """

    inner: Part = field(default_factory=lambda: GeneralisedAdvantage(0.99, 0.95, whitened=False))
    gamma: float = 0.99
    applied: bool = True

    needs = "the numbers of denoising steps"
    formula = "A_ti = gamma^(n - 1 - i) A_t, A_t of the environment's step t, i = 0..n-1"

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise CompositionError(
                f"the discount towards noisier steps must be above 0 and at most 1, not {self.gamma}"
            )

    @property
    def writes(self) -> tuple[str, ...]:
        return (*self.inner.writes, "discount")

    @property
    def critics(self) -> tuple[str, ...]:
        return self.inner.critics

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        if "clock_denoise" not in batch.step:
            raise CompositionError(
                "this credit belongs to policies that denoise their actions, whose steps carry `clock_denoise`; for "
                "other policies use its inner credit"
            )
        ends = chain_ends(batch)
        kind = torch.where(batch.own & ~ends, int(StepKind.TOOL), batch.step["kind"])
        inner: Any = self.inner
        found: Batch = inner(ctx, batch.with_steps({"kind": kind.to(batch.step["kind"].dtype)}))
        end = own_end(ends)
        counted = batch.own & (end < batch.steps)
        end = end.clamp(max=max(batch.steps - 1, 0))
        clock = batch.step["clock_denoise"]
        discount = self.gamma ** (clock.gather(1, end) - clock).clamp(min=0).to(found.step["advantage"].dtype)
        columns = {name: select(counted, found.step[name].gather(1, end)) for name in self.inner.writes}
        if self.applied:
            columns["advantage"] = columns["advantage"] * discount
        return found.with_steps({**columns, "discount": discount, "kind": batch.step["kind"]})
