"""Charges for leaving the states and steps of a reference policy: penalties on occupancies, in the reward.

d(s, a) is the log-odds of a discriminator between the policy's steps and the reference's (`objective.ratio`), an
estimate of log mu_pi(s, a) / mu_ref(s, a). The charges are those of arXiv 2403.03185 (section 4); a row's sequence
ratio takes the place of the discriminator where whole rows have probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.masked import masked_sum, select
from policyopt.ops.sequences import on_last
from policyopt.seen import SeenBatch
from policyopt.types import Batch

LARGEST = 20.0  # of a log ratio: exp stays finite in float32, and the charge is clipped long before


def chi_square_charge(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(d) - 1: its mean over the policy's own steps is chi^2(mu_pi || mu_ref)."""
    return torch.expm1(log_ratio.clamp(max=LARGEST))


def root_chi_square_charge(
    log_ratio: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], trim: float = 0.01
) -> Float[Tensor, "*shape"]:
    """(exp(d) - 1) / sqrt(mean (exp(d) - 1)): the gradient of sqrt(chi^2), of which `chi_square_charge` has half of
    the square's. The mean is over masked entries without the floor(trim n) largest and smallest; where it is not
    above 0 the charge is exp(d) - 1."""
    charge = chi_square_charge(log_ratio)
    entries = charge[mask].sort().values
    cut = int(trim * len(entries))
    mean = entries[cut : len(entries) - cut].mean() if len(entries) else charge.new_zeros(())
    return torch.where(mean > 0, charge / mean.clamp(min=1e-30).sqrt(), charge)


def charged(batch: Batch, coefficient: float, charge: Tensor, bound: float) -> Batch:
    """r_bt + clip(-coefficient c_bt, -bound, bound) on own steps."""
    paid = select(batch.own, (-coefficient * charge).clamp(-bound, bound))
    return batch.with_steps({"reward": batch.step["reward"] + paid.to(batch.step["reward"].dtype)})


@dataclass(frozen=True)
class OccupancyPenalty(Part, ABC):
    """A charge per step from the discriminator's log-odds. coefficient: lambda, in units of the reward. bound: of
    what a step can be charged."""

    coefficient: float = 0.1
    bound: float = 100.0
    discriminator: str = "discriminator"

    penalises: ClassVar[str] = "reference"
    needs: ClassVar[str] = "action values"

    critics = named_by("discriminator")

    def __post_init__(self) -> None:
        if self.coefficient < 0 or self.bound <= 0:
            raise CompositionError(
                f"need a coefficient of 0 or more and a bound above 0, got {self.coefficient} and {self.bound}"
            )

    @abstractmethod
    def charge(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        """(B, T) from the log-odds d (B, T)."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            log_ratio = SeenBatch(ctx, batch).q(self.discriminator)[0]
        counted = batch.own & batch.row["scored"][:, None]
        ctx.meter.mean("occupancy_kl", log_ratio, counted)
        ctx.meter.mean("occupancy_chi_square", chi_square_charge(log_ratio), counted)
        return charged(batch, self.coefficient, self.charge(log_ratio, counted), self.bound)


@dataclass(frozen=True)
class ChiSquarePenalty(OccupancyPenalty):
    """r -= lambda (exp(d) - 1): the chi-square divergence of occupancies (up to a factor 2 of its gradient)."""

    formula = "r_bt += clip(-lambda (exp(d_bt) - 1), -bound, bound)"

    def charge(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return chi_square_charge(log_ratio)


@dataclass(frozen=True)
class RootChiSquarePenalty(OccupancyPenalty):
    """r -= lambda (exp(d) - 1) / sqrt(trimmed mean): the square root of the chi-square divergence of occupancies,
    which bounds the loss of true reward (arXiv 2403.03185, theorem 5.1)."""

    trim: float = 0.01

    formula = "r_bt += clip(-lambda (exp(d_bt) - 1) / sqrt(trimmed mean (exp(d) - 1)), -bound, bound)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trim < 0.5:
            raise CompositionError(f"trim is the share cut on each side, in 0..0.5, not {self.trim}")

    def charge(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return root_chi_square_charge(log_ratio, mask, self.trim)


@dataclass(frozen=True)
class LogRatioPenalty(OccupancyPenalty):
    """r -= lambda d: the KL divergence of occupancies."""

    formula = "r_bt += clip(-lambda d_bt, -bound, bound)"

    def charge(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return log_ratio


@dataclass(frozen=True)
class SequenceChiSquarePenalty(Part):
    """The same bound where whole rows have probabilities (language): u = pi(row) / pi_ref(row) takes the place of the
    ratio of occupancies, and the charge u - 1 that of log u. No discriminator."""

    coefficient: float = 0.1
    bound: float = 100.0

    penalises: ClassVar[str] = "reference"
    formula = "R_b += clip(-lambda (u_b - 1), -bound, bound), u_b = exp(sum_t (log pi_behaviour - log pi_ref))"

    roles = ("reference",)

    def __post_init__(self) -> None:
        ChiSquarePenalty(self.coefficient, self.bound)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            reference = SeenBatch(ctx, batch).compute("reference").detach()
        log_ratio = masked_sum(batch.step["behaviour"] - reference.logp, batch.own)
        charge = chi_square_charge(log_ratio)
        ctx.meter.mean("sequence_chi_square", charge, batch.row["scored"])
        return charged(batch, self.coefficient, on_last(batch, charge), self.bound).with_scores(
            {"reference": reference}
        )
