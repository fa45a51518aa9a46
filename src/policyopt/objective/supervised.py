"""Losses that imitate: recorded steps, a teacher's distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.divergence import jensen_shannon
from policyopt.ops.masked import placed, select
from policyopt.seen import distribution
from policyopt.types import Batch, Categorical, Distribution


@dataclass(frozen=True)
class NegativeLogLikelihood(Loss):
    """Cross-entropy to the steps that were taken (supervised fine-tuning, behaviour cloning)."""

    formula = "-log pi_bt"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return -seen["policy"].logp


def both(seen: Seen) -> tuple[Distribution, Distribution]:
    """Student and teacher, of the same choices."""
    student, teacher = distribution(seen, "policy"), distribution(seen, "teacher")
    if isinstance(student, Categorical) and isinstance(teacher, Categorical):
        mine, theirs = student.logp.shape[-1], teacher.logp.shape[-1]
        if mine != theirs:
            raise CompositionError(
                f"a divergence is between distributions of the same choices, and the policy has {mine}, the teacher "
                f"{theirs}; give a teacher of the policy's family, with its vocabulary"
            )
    return student, teacher


@dataclass(frozen=True)
class FullReverseKL(Loss):
    """On-policy distillation with whole distributions: KL(student || teacher) at the states the student visits.

    Exact per state; the visited states are taken as given. Source: GKD (arXiv 2306.13649), beta -> 1 form.
    """

    formula = "sum_v pi(v) (log pi(v) - log pi_teacher(v))"

    roles = ("teacher",)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        student, teacher = both(seen)
        own = batch.trained
        return placed(own, student[own].kl(teacher[own]))


@dataclass(frozen=True)
class GeneralisedJensenShannon(Loss):
    """GKD's divergence between student and teacher for 0 < beta < 1 (arXiv 2306.13649, eq. 1): towards forward KL
    (mode covering) for small beta and towards reverse KL (mode seeking) for large beta, up to a factor."""

    beta: float = 0.5

    formula = "beta KL(teacher || M) + (1 - beta) KL(pi || M), M = beta teacher + (1 - beta) pi"

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise CompositionError(f"beta must be inside 0..1, not {self.beta}; use FullReverseKL for the limit")

    roles = ("teacher",)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        student, teacher = both(seen)
        if not (isinstance(student, Categorical) and isinstance(teacher, Categorical)):
            raise CompositionError("GeneralisedJensenShannon needs categorical distributions")
        own = batch.trained
        return placed(own, jensen_shannon(student.logp[own], teacher.logp[own], self.beta))


@dataclass(frozen=True)
class SampledReverseKL(Loss):
    """On-policy distillation with the sampled token only: a policy gradient with reward log teacher - log pi.

    The ratio to `old` carries the gradient, so its expectation is the gradient of KL(pi || teacher) at the visited
    states, on and off policy.
    """

    formula = "-r_bt sg(log pi_teacher - log pi), r = exp(log pi - log pi_old)"

    roles = ("old", "teacher")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        logp = seen["policy"].logp
        gap = select(batch.trained, (seen["teacher"].logp - logp).detach())
        return -select(batch.trained, logp - seen["old"].logp).exp() * gap

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"reverse_kl": seen["policy"].logp - seen["teacher"].logp}
