"""Noise on rewards, so that no group of attempts is without spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from policyopt.compose import CompositionError, Part
from policyopt.ops.masked import select
from policyopt.ops.schedules import progress, ramp
from policyopt.ops.sequences import on_last
from policyopt.types import Batch


@dataclass(frozen=True)
class Dithered(Part):
    """Adds independent noise of mean 0 to the reward of every scored row (ReDit, arXiv 2506.18631).

    scale: half the width of the uniform noise; normal noise has the same deviation, scale / sqrt(3). final: the scale
    of the last round, on a line from the first (None: constant).
    """

    scale: float = 0.05
    final: float | None = None
    noise: Literal["uniform", "normal"] = "uniform"

    needs = "random numbers of the run"
    formula = "R_b += e_b, e_b ~ U(-scale, scale) or N(0, scale^2 / 3)"

    def __post_init__(self) -> None:
        if self.scale < 0 or (self.final is not None and self.final < 0):
            raise CompositionError(f"the scale of noise must not be negative, got {self.scale} and {self.final}")

    def __call__(self, ctx: Any, batch: Batch) -> Batch:
        final = self.scale if self.final is None else self.final
        scale = ramp(self.scale, final, progress(ctx.stage_step, ctx.stage_total))
        rng, like = ctx.rng("dither"), batch.step["reward"]
        if self.noise == "uniform":
            drawn = 2 * torch.rand(len(batch), generator=rng, dtype=torch.float64) - 1
        else:
            drawn = torch.randn(len(batch), generator=rng, dtype=torch.float64) / 3**0.5
        drawn = select(batch.row["scored"], (scale * drawn).to(like))
        return batch.with_steps({"reward": like + on_last(batch, drawn)})
