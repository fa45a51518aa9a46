"""Losses on pairs whose minimiser is a step of a preference game: mirror descent towards its equilibrium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import masked_sum
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


def pair_gap(seen: Seen, batch: Batch, role: str) -> Float[Tensor, " pairs"]:
    """The sum over a row's trained steps of log role, chosen less rejected."""
    whole = masked_sum(seen[role].logp, batch.trained)
    chosen, rejected = pair_rows(batch).T
    return whole[chosen] - whole[rejected]


def reward_gap(batch: Batch) -> Float[Tensor, " pairs"]:
    reward = total_reward(batch)
    chosen, rejected = pair_rows(batch).T
    return reward[chosen] - reward[rejected]


@dataclass(frozen=True)
class MirrorPreference(Loss):
    """INPO (arXiv 2407.00617): the squared distance of a winner's log-ratio to its loser's, less that of the reference
    and of the last policy, from 1 / (2 eta). Over pairs of the last policy the minimiser is the step of online mirror
    descent pi_ref^(tau/eta) pi_t^(1-tau/eta) exp(P(y > pi_t) / eta) / Z.

    tau = eta: IPO to the reference; tau = 0: IPO to the last policy. target "win_rates": (R_w - R_l) / eta with the
    rows' rewards, win rates over the last policy, in place of the label's 1 / (2 eta): same minimiser, less noise.
    """

    eta: float = 0.0075
    tau: float = 0.0025
    target: Literal["label", "win_rates"] = "label"

    formula = (
        "(h - 1/(2 eta))^2, h = D log pi - (tau/eta) D log pi_ref - (1 - tau/eta) D log pi_old, D x = x(y_w) - x(y_l), "
        "log pi(y) = sum_t log pi_t"
    )
    reads = ("pair", "rank")
    roles = ("reference", "old")

    def __post_init__(self) -> None:
        if self.eta <= 0 or not 0 <= self.tau <= self.eta:
            raise CompositionError(f"need eta > 0 and 0 <= tau <= eta, got {self.eta} and {self.tau}")

    def error(self, seen: Seen, batch: Batch) -> Float[Tensor, " pairs"]:
        policy, reference, old = (pair_gap(seen, batch, role) for role in ("policy", *self.roles))
        share = self.tau / self.eta
        goal = reward_gap(batch) / self.eta if self.target == "win_rates" else 1 / (2 * self.eta)
        return policy - share * reference - (1 - share) * old - goal

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return at_rows(self.error(seen, batch) ** 2, pair_rows(batch)[:, 0], len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"error": at_rows(self.error(seen, batch).abs(), pair_rows(batch)[:, 0], len(batch))}


@dataclass(frozen=True)
class WinRateLogistic(Loss):
    """DNO (arXiv 2404.03715): logistic regression of the difference of two rows' rewards, their win rates over the last
    policy, on the difference of their log-ratios to it. The minimiser over pairs of the last policy is
    pi_t exp(R / eta) / Z."""

    eta: float = 1.0

    formula = (
        "-q log sigma(eta D) - (1 - q) log sigma(-eta D), q = sigma(R_1 - R_2), D = rho(y_1) - rho(y_2), "
        "rho(y) = sum_t (log pi - log pi_old)"
    )
    reads = ("pair", "rank")
    roles = ("old",)

    def __post_init__(self) -> None:
        if self.eta <= 0:
            raise CompositionError(f"eta must be above 0, not {self.eta}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        q = torch.sigmoid(reward_gap(batch))
        margin = self.eta * (pair_gap(seen, batch, "policy") - pair_gap(seen, batch, "old"))
        loss = -q * logsigmoid(margin) - (1 - q) * logsigmoid(-margin)
        return at_rows(loss, pair_rows(batch)[:, 0], len(batch))
