"""Losses on the forward process: finished samples are noised again and the denoiser is regressed. No densities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.matching import MATCH_DROPPED, MATCH_TIME
from policyopt.types import Batch


@dataclass(frozen=True)
class DenoisingRegression(Loss):
    """Supervised denoising (flow matching, DDPM's simple loss) on the rows' finished samples, (B,).

    points: noised points per row. dropped: the share of points that are shown no condition, so that the model can be
    guided later. Mask it with `trained_rows`, average it with `RowMean`.
    """

    points: int = 1
    dropped: float = 0.0

    needs = "denoising errors"
    formula = "mean_p mean_d (u_theta(a_t x_0 + b_t eps, t, c) - u)^2"

    def __post_init__(self) -> None:
        if self.points < 1 or not 0 <= self.dropped < 1:
            raise CompositionError(
                f"points must be at least 1 and dropped in 0..1, got {self.points} and {self.dropped}"
            )

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        columns = seen.noise("matching", self.points)
        if self.dropped:
            uniform = torch.rand(columns[MATCH_TIME].shape, generator=seen.rng("dropped conditions"))
            columns = {**columns, MATCH_DROPPED: (uniform < self.dropped).to(batch.device)}
        return batch.with_rows(columns)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return seen.match("policy").error().mean(1)
