"""Staying where recorded steps are dense, by the score of a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.ops.masked import select
from policyopt.ops.matching import STEP_NOISE, STEP_TIME, Renoised, points_of_steps
from policyopt.types import Batch

Weighting = Literal["variance", "one", "ratio"]


@dataclass(frozen=True)
class ScoreOfBehaviour(Loss):
    """Moves the policy's mode along the score of a diffusion model of recorded steps, which is frozen here (SRPO, arXiv
    2310.07297, eq. 10): the gradient, by the mode, of a weighted KL from it, noised, to who recorded. The value is a
    surrogate that only has this gradient.

    weighting: w(t) = sigma^2 ("variance"), 1 or alpha / sigma ("ratio"). centred: the noise that was added is taken
    from what the model says: the same mean; less variance at much noise and more at little. times: the range of t.
    """

    model: str = "diffusion"
    weighting: Weighting = "variance"
    centred: bool = False
    times: tuple[float, float] = (0.02, 0.98)

    formula = "w(t) <sg(eps(alpha_t a + sigma_t z | s, t)), a>, a = mu(s), t ~ U(times), z ~ N(0, I)"
    needs = "the noise in steps"
    critics = named_by("model")

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise CompositionError(f"weighting is one of {', '.join(get_args(Weighting))}, not {self.weighting!r}")
        if not 0 <= self.times[0] < self.times[1] <= 1:
            raise CompositionError(f"times rise within 0..1, got {self.times}")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        if not seen.taken().is_floating_point():
            raise CompositionError("the score of recorded steps needs steps that are numbers, not choices")
        return batch.with_steps(points_of_steps(seen.taken(), self.times, seen.rng("score of behaviour")))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        mode, noise = seen.at("policy").mode(), batch.step[STEP_NOISE]
        with torch.no_grad():
            found = seen.renoised(self.model, mode, batch.step[STEP_TIME], noise)
            direction = self._weight(found)[..., None] * (found.said - noise * self.centred)
        own = batch.trained[..., None].expand_as(mode)
        return (select(own, direction) * select(own, mode)).sum(-1)

    def _weight(self, found: Renoised) -> Tensor:
        if self.weighting == "one":
            return torch.ones_like(found.noise)
        return found.noise**2 if self.weighting == "variance" else found.signal / found.noise
