"""KL to a reference and entropy, as losses.

The *reported* KL and the *gradient* of a KL loss are two things. `KLToReference` and `ExactKL` have the gradient of
KL(pi || reference) at the visited states. The `K*Loss` forms are what other libraries differentiate; they are here
under their own names for parity, with their bias stated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from policyopt.compose import Loss, Seen, named_by
from policyopt.ops.divergence import k1, k2, k3, kl_gradient
from policyopt.ops.masked import placed, select
from policyopt.seen import distribution
from policyopt.types import Batch


def difference(seen: Seen, batch: Batch) -> Tensor:
    """log pi - log pi_ref on trained steps, 0 elsewhere."""
    return select(batch.trained, seen["policy"].logp - seen["reference"].logp)


@dataclass(frozen=True)
class KLToReference(Loss):
    """KL(pi || reference) from sampled steps, with the right gradient on and off policy: w * sg(k1), w = pi / old.

    Needs no full distribution. `old` must be the distribution the steps were sampled from.
    """

    penalises: ClassVar[str] = "reference"
    formula = "w sg(log pi - log pi_ref), w = exp(log pi - log pi_old)"

    roles = ("old", "reference")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        # Selected first: the product with a masked nan would carry it into the gradient.
        own, roles = batch.trained, ("policy", "reference", "old")
        return kl_gradient(*(select(own, seen[role].logp) for role in roles))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"kl": k3(difference(seen, batch))}


@dataclass(frozen=True)
class ExactKL(Loss):
    """KL(first || second) over whole distributions, exact at every step. Roles need `full=True`."""

    first: str = "policy"
    second: str = "reference"

    formula = "sum_v p(v) (log p(v) - log q(v))"
    roles = named_by("first", "second")

    @property
    def penalises(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The other one: a bound to the old policy may stand beside a penalty to the reference."""
        return self.second if self.first == "policy" else self.first

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        first, second, own = distribution(seen, self.first), distribution(seen, self.second), batch.trained
        return placed(own, first[own].kl(second[own]))


@dataclass(frozen=True)
class EstimatorLoss(Loss, ABC):
    """An estimator of KL(pi || reference) at the sampled step, differentiated directly."""

    penalises = "reference"
    roles = ("reference",)

    @abstractmethod
    def estimate(self, log_ratio: Tensor) -> Tensor:
        """From log pi - log pi_ref (B, T)."""

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return self.estimate(difference(seen, batch))


@dataclass(frozen=True)
class K1Loss(EstimatorLoss):
    """log pi - log pi_ref. Biased: on-policy its expected gradient is zero."""

    formula = "log pi - log pi_ref   (expected gradient 0 on-policy)"

    def estimate(self, log_ratio: Tensor) -> Tensor:
        return k1(log_ratio)


@dataclass(frozen=True)
class K2Loss(EstimatorLoss):
    """(log pi - log pi_ref)^2 / 2. Right on-policy, biased off-policy."""

    formula = "(log pi - log pi_ref)^2 / 2   (right gradient on-policy only)"

    def estimate(self, log_ratio: Tensor) -> Tensor:
        return k2(log_ratio)


@dataclass(frozen=True)
class K3Loss(EstimatorLoss):
    """GRPO's published KL term (arXiv 2402.03300, eq. 4). Biased: its expected gradient is that of the forward
    KL(reference || pi), on-policy."""

    formula = "exp(d) - d - 1, d = log pi_ref - log pi   (gradient of the forward KL)"

    def estimate(self, log_ratio: Tensor) -> Tensor:
        return k3(log_ratio)


@dataclass(frozen=True)
class Entropy(Loss):
    """Exact entropy of the policy at every step; a negative weight is a bonus. Role policy needs `full=True`."""

    formula = "-sum_v pi(v) log pi(v)"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        own = batch.trained
        return placed(own, distribution(seen, "policy")[own].entropy())
