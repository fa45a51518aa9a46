"""Policy-gradient losses from advantages: plain, clipped per step, clipped per sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Part, PerStep, Seen, coefficient, named_by
from policyopt.ops.masked import masked_mean, masked_sum, select
from policyopt.types import Batch, Scores


def exact(scores: Scores, what: str) -> Float[Tensor, "B T"]:
    """Log-probabilities that are allowed in a ratio."""
    if not scores.exact:
        raise CompositionError(
            f"{what} has scores that are only bounds or energies; a probability ratio needs exact log-densities. "
            "Use an objective without ratios"
        )
    return scores.logp


def log_ratio(seen: Seen, batch: Batch) -> Float[Tensor, "B T"]:
    """log pi - log pi_old on trained steps, exactly 0 elsewhere."""
    difference = exact(seen["policy"], "policy") - exact(seen["old"], "old")
    return select(batch.trained, difference)


def clipped_surrogate(
    ratio: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*shape"],
    clip_low: float | Tensor,
    clip_high: float | Tensor,
) -> Float[Tensor, "*shape"]:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (arXiv 1707.06347, eq. 7). The gradient is exactly zero for A > 0
    and r > 1 + high, and for A < 0 and r < 1 - low."""
    low, high = (torch.as_tensor(bound, dtype=ratio.dtype) for bound in (1 - clip_low, 1 + clip_high))
    clipped = torch.clamp(ratio, low, high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def out_of_range(ratio: Tensor, advantage: Tensor, clip_low: float | Tensor, clip_high: float | Tensor) -> Tensor:
    """1 where clipping removes the gradient; counted from the ratio before it is clipped."""
    above = (advantage > 0) & (ratio > 1 + clip_high)
    below = (advantage < 0) & (ratio < 1 - clip_low)
    return (above | below).to(ratio.dtype)


def check_clip(clip_low: PerStep, clip_high: PerStep) -> None:
    if not callable(clip_low) and not 0 < clip_low <= 1:
        raise CompositionError(f"clip_low must be above 0 and at most 1, not {clip_low}")
    if not callable(clip_high) and not clip_high > 0:
        raise CompositionError(f"clip_high must be above 0, not {clip_high}")


@dataclass(frozen=True)
class PolicyGradient(Loss):
    """REINFORCE: -A log pi. Its gradient is that of the expected return only for steps the current policy took."""

    formula = "-A_bt log pi_bt"

    reads = ("advantage",)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        logp = select(batch.trained, seen["policy"].logp)
        return -select(batch.trained, batch.step["advantage"]) * logp

    def idle(self, batch: Batch) -> Tensor:
        return batch.step["advantage"] == 0


@dataclass(frozen=True)
class ClippedSurrogate(Loss):
    """PPO's clipped surrogate, per step; clip_high above clip_low is DAPO's clip-higher.

    dual_clip: c > 1 bounds the loss of steps with A < 0 by -c A (arXiv 1912.09729, eq. 5); None: no bound.
    advantage: the column A is read from, for methods with a term per reward.
    """

    clip_low: PerStep = 0.2
    clip_high: PerStep = 0.2
    dual_clip: float | None = None
    advantage: str = "advantage"

    formula = "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(log pi - log pi_old)"
    reads = named_by("advantage")

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise CompositionError(f"dual_clip must be above 1, not {self.dual_clip}")

    roles = ("old",)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        ratio, advantage = log_ratio(seen, batch).exp(), batch.step[self.advantage]
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        loss = clipped_surrogate(ratio, advantage, low, high)
        if self.dual_clip is None:
            return loss
        return torch.where(advantage < 0, torch.minimum(loss, -self.dual_clip * advantage), loss)

    def idle(self, batch: Batch) -> Tensor:
        return batch.step[self.advantage] == 0

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        change = log_ratio(seen, batch)
        ratio, advantage = change.exp(), batch.step[self.advantage]
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        clipped = out_of_range(ratio, advantage, low, high)
        if self.dual_clip is not None:
            # The dual clip removes the gradient as well.
            clipped = torch.maximum(clipped, ((advantage < 0) & (ratio > self.dual_clip)).to(ratio.dtype))
        return {"ratio": ratio, "clipped": clipped, "kl_old": torch.expm1(change) - change}


def row_advantage(batch: Batch) -> Float[Tensor, " B"]:
    """The advantage of a row whose steps all share one; their mean otherwise."""
    return masked_mean(batch.step["advantage"], batch.trained)


@dataclass(frozen=True)
class SequenceSurrogate(Loss, ABC):
    """The clipped surrogate with one ratio per row: a row is kept or clipped as a whole."""

    clip_low: PerStep = 0.2
    clip_high: PerStep = 0.2

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)

    reads = ("advantage",)
    roles = ("old",)

    @abstractmethod
    def ratio(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        """The probability ratio of every row."""

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        return clipped_surrogate(self.ratio(seen, batch), row_advantage(batch), low, high)

    def idle(self, batch: Batch) -> Tensor:
        return row_advantage(batch) == 0

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        ratio = self.ratio(seen, batch)
        return {"ratio": ratio, "clipped": out_of_range(ratio, row_advantage(batch), low, high)}


@dataclass(frozen=True)
class GeometricSequenceSurrogate(SequenceSurrogate):
    """GSPO (arXiv 2507.18071, eq. 5 and 7): the ratio of a row is the geometric mean of its steps' ratios.

    Clip ranges are two to three orders smaller than for steps. A row without trained steps gives 0.
    """

    clip_low: PerStep = 3e-4
    clip_high: PerStep = 4e-4

    formula = "-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean_t (log pi - log pi_old))"

    def ratio(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        return masked_mean(log_ratio(seen, batch), batch.trained).exp()


@dataclass(frozen=True)
class ProductSequenceSurrogate(SequenceSurrogate):
    """RLOO's surrogate: a row is one action, its ratio the product of its steps' ratios, clipped as in PPO.
    On the first pass over fresh rows its gradient is that of REINFORCE on the whole row."""

    formula = "-min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), w = exp(sum_t (log pi - log pi_old))"

    def ratio(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        return masked_sum(log_ratio(seen, batch), batch.trained).exp()


@dataclass(frozen=True)
class TruncatedImportance(Part):
    """A term weight: min(pi_old / pi_behaviour, cap) per step, without gradient.

    Corrects for rows sampled by an older policy or by an engine whose numbers differ from the trainer's; the
    clipped ratio of the loss is then against `old`, never against the behaviour policy. cap = inf: unbiased.
    """

    cap: float = 2.0

    formula = "min(pi_old / pi_behaviour, cap)"

    roles = ("old",)

    def __post_init__(self) -> None:
        if self.cap <= 0:
            raise CompositionError(f"the cap of importance weights must be above 0, not {self.cap}; inf is none")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        with torch.no_grad():
            difference = exact(seen["old"], "old") - batch.step["behaviour"]
            return select(batch.trained, difference).exp().clamp(max=self.cap)
