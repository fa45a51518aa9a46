"""Losses on the forward process: finished samples are noised again and the denoiser is regressed. No densities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.ops.masked import select
from policyopt.ops.matching import MATCH_DROPPED, MATCH_TIME, STEP_NOISE, STEP_TIME, points_of_steps, squared_error
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


@dataclass(frozen=True)
class StepDenoising(Loss):
    """Denoising of the steps that were taken, each given its state, (B, T): a diffusion model of who recorded (arXiv
    2310.07297, eq. 4, with the mean over dimensions). model: the one that is trained; set the term's `trains` too."""

    model: str = "diffusion"

    needs = "the noise in steps"
    formula = "mean_d (eps(alpha_t a + sigma_t z | s, t) - z)^2, t ~ U(0, 1), z ~ N(0, I)"
    critics = named_by("model")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        return batch.with_steps(points_of_steps(seen.taken(), (0.0, 1.0), seen.rng("step denoising")))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        noise = batch.step[STEP_NOISE]
        found = seen.renoised(self.model, seen.taken(), batch.step[STEP_TIME], noise)
        return select(batch.trained, squared_error(found.said, noise))
