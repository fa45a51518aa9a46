"""Surrogates that keep the policy which took the steps apart from the one that bounds the change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Loss, PerStep, Seen, coefficient, named_by
from policyopt.objective.surrogates import check_clip, exact
from policyopt.ops.masked import select
from policyopt.types import Batch


def sampled_by(current: Float[Tensor, "B T"], behaviour: Float[Tensor, "B T"], cap: float) -> Float[Tensor, "B T"]:
    """log of the denominator of a ratio that is at most `cap`: max(log behaviour, sg(log pi) - log cap). Raising the
    denominator, unlike clamping the ratio, leaves the gradient cap * grad log pi where the cap holds."""
    return torch.maximum(behaviour, current.detach() - math.log(cap))


def _check_cap(cap: float) -> None:
    if not cap > 1:
        raise CompositionError(f"the cap of a ratio must be above 1, not {cap}; inf is none")


@dataclass(frozen=True)
class RatioSurrogate(Loss):
    """The linearised return of the policy around the one that took the steps (TRPO, arXiv 1502.05477, eq. 14): its
    gradient at old = pi is the policy gradient. Unbounded: combine it with a limit or a divergence.

    old: the role in the denominator; "behaviour" is the sampler's own. cap: see `sampled_by`.
    """

    old: str = "old"
    cap: float = math.inf

    formula = "-r A, r = pi / max(pi_old, sg(pi) / cap)"
    reads = ("advantage",)
    roles = named_by("old")

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def change(self, seen: Seen, batch: Batch) -> Float[Tensor, "B T"]:
        """log of the ratio, 0 outside trained steps."""
        now, own = select(batch.trained, exact(seen["policy"], "policy")), batch.trained
        return now - sampled_by(now, select(own, exact(seen[self.old], self.old)), self.cap)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return -self.change(seen, batch).exp() * select(batch.trained, batch.step["advantage"])

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        change = self.change(seen, batch)
        return {"ratio": change.exp(), "kl_old": torch.expm1(change) - change}


@dataclass(frozen=True)
class DecoupledSurrogate(Loss):
    """PPO's clipped surrogate with two policies for its two jobs (arXiv 2110.00641): steps are corrected for the
    behaviour policy b that took them, and the change is bounded around the proximal policy p.

    p = b: the clipped surrogate. b' has the ratio at most `cap`, see `sampled_by`. The role `old` as proximal policy is
    PPO that corrects for a stale or inexact sampler.
    """

    clip_low: PerStep = 0.2
    clip_high: PerStep = 0.2
    cap: float = 100.0
    proximal: str = "proximal"

    formula = (
        "max(-A pi / b', -A clip(pi / p, 1 - clip_low, 1 + clip_high) p / b'), b' = max(b, sg(pi) / cap), "
        "b as recorded, p proximal"
    )
    reads = ("advantage",)
    roles = named_by("proximal")

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        _check_cap(self.cap)

    def _logs(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log of pi, p and b', 0 outside trained steps."""
        own = batch.trained
        now = select(own, exact(seen["policy"], "policy"))
        near = select(own, exact(seen[self.proximal], self.proximal).detach())
        return now, near, sampled_by(now, select(own, seen["behaviour"].logp), self.cap)

    def _bounds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        like = batch.step["advantage"]
        return torch.as_tensor(1 - low).to(like).log(), torch.as_tensor(1 + high).to(like).log()

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        (now, near, taken), (low, high) = self._logs(seen, batch), self._bounds(batch)
        advantage = select(batch.trained, batch.step["advantage"])
        bounded = torch.clamp(now - near, low, high) + near - taken
        return torch.maximum(-advantage * (now - taken).exp(), -advantage * bounded.exp())

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        (now, near, taken), (low, high) = self._logs(seen, batch), self._bounds(batch)
        change, advantage = now - near, batch.step["advantage"]
        clipped = ((advantage > 0) & (change > high)) | ((advantage < 0) & (change < low))
        ratio = (now - taken).exp()
        return {"ratio": ratio, "clipped": clipped.to(ratio.dtype), "kl_proximal": torch.expm1(change) - change}
