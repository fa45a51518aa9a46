"""A clipped surrogate whose log-ratios are centred: steps of different noise are clipped alike on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Loss, PerStep, Seen, coefficient
from policyopt.objective.surrogates import check_clip, clipped_surrogate, log_ratio, out_of_range
from policyopt.ops.masked import placed
from policyopt.seen import distribution
from policyopt.types import Batch


@dataclass(frozen=True)
class CentredSurrogate(Loss):
    """PPO's clipped surrogate with log r + KL(pi_old || pi) in place of log r, times `scale`.

    Under the old policy the mean of log r is -KL(pi_old || pi): -|dmu|^2 / (2 sd^2) for Gaussian steps of one sd, far
    below 0 where sd is small. There the upper clip is never met and the lower one always. The centred log-ratio has
    mean 0 at every step. With scale the sd of the step, a function of the batch, its spread is alike as well: the
    ratio normalisation of GRPO-Guard (arXiv 2510.22319). Needs whole distributions of the policy and of `old`.
    """

    clip_low: PerStep = 0.2
    clip_high: PerStep = 0.2
    scale: PerStep = 1.0

    formula = (
        "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(scale (log pi - log pi_old + KL(pi_old || pi)))"
    )

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)

    reads = ("advantage",)
    roles = ("old",)

    def ratio(self, seen: Seen, batch: Batch) -> Float[Tensor, "B T"]:
        """1 on steps that are not trained."""
        own = batch.trained
        old, new = distribution(seen, "old"), distribution(seen, "policy")
        divergence = placed(own, old[own].kl(new[own]))
        return (coefficient(self.scale, batch) * (log_ratio(seen, batch) + divergence)).exp()

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        return clipped_surrogate(self.ratio(seen, batch), batch.step["advantage"], low, high)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        ratio = self.ratio(seen, batch)
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        clipped = out_of_range(ratio, batch.step["advantage"], low, high)
        found = {"ratio": ratio, "clipped": clipped}
        return {**found, **by_step(found, batch)}


def by_step(
    measures: Mapping[str, Tensor], batch: Batch, clock: str = "clock_denoise"
) -> dict[str, tuple[Tensor, Tensor]]:
    """Every measure (B, T) once for each number of a clock, beside the steps it is of: what hides in a mean over all
    steps. Empty where rows carry no such clock."""
    if clock not in batch.step:
        return {}
    at = batch.step[clock]
    numbers = at[batch.trained].unique().tolist()
    return {f"{name}_at_{number}": (value, at == number) for name, value in measures.items() for number in numbers}
