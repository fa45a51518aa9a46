"""Which steps of a row are trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class RandomSteps(Part):
    """A random part of every row's trained steps stays trained: floor(share n) of n (DanceGRPO's timestep selection,
    arXiv 2505.07818, section 3.3). The others leave every term and are not scored."""

    share: float = 0.6

    needs = "random numbers of the run"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CompositionError(f"share must be above 0 and at most 1, not {self.share}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        trained = batch.trained
        draws = torch.rand(trained.shape, generator=ctx.rng("trained steps"), dtype=torch.float64).to(batch.device)
        # Rounded up by less than one step, because 0.6 * 5 must be 3.
        count = (trained.sum(1) * self.share + 1e-9).floor()
        rank = torch.where(trained, draws, math.inf).argsort(1).argsort(1)
        return batch.with_steps({"train": trained & (rank < count[:, None])})
