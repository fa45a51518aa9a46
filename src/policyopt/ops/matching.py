"""Forward-process regression: what a denoiser says of noised samples, for losses without log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MATCH_TIME, MATCH_NOISE, MATCH_DROPPED = "match_time", "match_noise", "match_dropped"
"""Row columns (B, P), (B, P, D), (B, P) bool: where and with what every row's sample is noised again, and the points
that are shown no condition. Planned once per optimiser step, so micro-batches and all models see the same points."""

STEP_TIME, STEP_NOISE = "_time", "_noise"
"""Step columns (B, T), (B, T, D): where and with what every step is noised."""


@dataclass(frozen=True)
class Matching:
    """P noised points of every row. prediction, target: in what the network predicts; scale: how far an error of 1 in
    the prediction moves the predicted clean sample (t for a flow); time: network times."""

    prediction: Float[Tensor, "B P D"]
    target: Float[Tensor, "B P D"]
    time: Float[Tensor, "B P"]
    scale: Float[Tensor, "B P 1"]

    def error(self, prediction: Tensor | None = None) -> Float[Tensor, "B P"]:
        """Mean over D of the squared error of the prediction (or of another one for the same points)."""
        return squared_error(self.prediction if prediction is None else prediction, self.target)

    def clean_error(self, prediction: Tensor | None = None) -> Float[Tensor, "B P D"]:
        """|x_0 predicted - x_0|, entry by entry."""
        given = self.prediction if prediction is None else prediction
        return (self.scale * (given - self.target)).abs()


@dataclass(frozen=True)
class Renoised:
    """Steps noised again and what a model says of their noise. said: the noise (B, T, D), 0 where steps are not trained
    on; signal, noise: a and b (B, T) of a x_0 + b eps."""

    said: Float[Tensor, "B T D"]
    signal: Float[Tensor, "B T"]
    noise: Float[Tensor, "B T"]


def points_of_steps(
    like: Float[Tensor, "B T D"], times: tuple[float, float], rng: torch.Generator
) -> dict[str, Tensor]:
    """Step columns `_time` (B, T), uniform between `times` (shares of the forward process), and `_noise` (B, T, D)."""
    low, high = times
    share = low + (high - low) * torch.rand(like.shape[:-1], generator=rng, dtype=like.dtype)
    noise = torch.randn(like.shape, generator=rng, dtype=like.dtype)
    return {STEP_TIME: share.to(like.device), STEP_NOISE: noise.to(like.device)}


def squared_error(prediction: Float[Tensor, "*lead D"], target: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead"]:
    """mean_d (prediction - target)^2."""
    return ((prediction - target) ** 2).mean(-1)


def adaptive_clean_error(matching: Matching, prediction: Tensor, least: float = 1e-5) -> Float[Tensor, "B P"]:
    """mean_d e^2 / sg(max(mean_d |e|, least)), e the error of the predicted clean sample (DiffusionNFT's weighting)."""
    error = matching.clean_error(prediction)
    return (error**2).mean(-1) / error.mean(-1).clamp(min=least).detach()
