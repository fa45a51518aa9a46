"""Estimators of divergences from log-probabilities, per step and unreduced.

`log_ratio` is log p(y) - log q(y) at a sample y of p, so that E_p[log_ratio] = KL(p || q).
k1, k2, k3: J. Schulman, "Approximating KL Divergence" (2020).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.types import Categorical


def k1(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Unbiased, may be negative. As a loss its expected gradient is zero: use `kl_gradient`."""
    return log_ratio


def k2(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log_ratio^2 / 2: biased value; on-policy its gradient is the right one in expectation."""
    return 0.5 * log_ratio**2


def k3(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(-d) - 1 + d: unbiased value and >= 0, but as a loss it has the gradient of the forward KL(q || p)."""
    return torch.expm1(-log_ratio) + log_ratio


def kl_gradient(
    logp: Float[Tensor, "*shape"],
    reference: Float[Tensor, "*shape"],
    behaviour: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """A surrogate whose *value* is the importance-weighted k1 and whose *gradient* is that of KL(pi || ref).

    With w = pi / behaviour (the distribution sampled from): E_behaviour[w * k1] = KL(pi || ref) at the step, and
    grad E[w * k1] = E[w * k1 * grad log pi] + E[w * grad log pi] with the second term zero in expectation. So the
    graph is w * sg(k1), with the weight *carrying* the gradient. The states visited are taken as given.
    """
    difference = (logp - reference).detach()
    weight = (logp - behaviour).exp()
    return weight * difference


def jensen_shannon(
    student: Float[Tensor, "*lead V"], teacher: Float[Tensor, "*lead V"], beta: float
) -> Float[Tensor, "*lead"]:
    """beta * KL(teacher || M) + (1 - beta) * KL(student || M), M = (1 - beta) * student + beta * teacher;
    arguments are normalised log-probabilities. Generalised JSD of GKD (arXiv 2306.13649, eq. 1)."""
    # Where both are impossible, logaddexp(-inf, -inf) is right in value and nan in gradient.
    possible = torch.maximum(student, teacher) > -math.inf
    parts = (
        torch.where(possible, student + math.log1p(-beta), 0.0),
        torch.where(possible, teacher + math.log(beta), 0.0),
    )
    mixture = torch.where(possible, torch.logaddexp(*parts), -math.inf)
    towards = Categorical(mixture)
    return beta * Categorical(teacher).kl(towards) + (1 - beta) * Categorical(student).kl(towards)
