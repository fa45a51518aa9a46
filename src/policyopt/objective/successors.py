"""Losses of models that say how good each step was: the value of the state that a step leads to, w(s_<=t).

On text that state is the prefix with the token, so one number per state is one number per step taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.ops.masked import masked_mean, select
from policyopt.ops.sequences import fold_rewards, pack_own, total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class RowClassifier(Loss):
    """A classifier of whole rows whose logit is the mean of its numbers of steps (OREAL's token-level reward model,
    arXiv 2502.06781, eq. 11): cross-entropy with the row's reward, in 0..1. One value per row."""

    critic: str = "tokens"

    needs = "values of the states that follow"
    formula = "-R_b log sigma(w_b) - (1 - R_b) log(1 - sigma(w_b)), w_b = mean_t w(s_b,t+1)"
    critics = named_by("critic")

    def logit(self, seen: Seen, batch: Batch) -> Tensor:
        """(B,)"""
        return masked_mean(select(batch.trained, seen.value(self.critic, following=True)), batch.trained)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        logit = self.logit(seen, batch)
        return softplus(logit) - total_reward(batch).to(logit.dtype) * logit

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        right = (self.logit(seen, batch) > 0) == (total_reward(batch) > 0.5)
        return {"right": right.to(batch.step["reward"].dtype)}


@dataclass(frozen=True)
class ActionReturnError(Loss):
    """sum_e (Q_e(s, a) - G)^2 / 2, G the column `return`: a critic of steps fitted to what followed them."""

    critic: str = "q"

    needs = "action values"
    formula = "sum_e (Q_e(s_t, a_t) - G_t)^2 / 2"
    reads = ("return",)
    critics = named_by("critic")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        gap = seen.q(self.critic) - batch.step["return"]
        return 0.5 * select(batch.trained, (gap**2).sum(0))


@dataclass(frozen=True)
class StepRegression(Loss):
    """(w(s_t+1) - y)^2 per step, y a column of targets (process reward models: arXiv 2410.17621, section 3.1)."""

    critic: str = "process"
    target: str = "label"

    needs = "values of the states that follow"
    formula = "(w(s_t+1) - y_t)^2"
    reads = named_by("target")
    critics = named_by("critic")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        said = select(batch.trained, seen.value(self.critic, following=True))
        return (said - select(batch.trained, batch.step[self.target])) ** 2


@dataclass(frozen=True)
class SarsaError(Loss):
    """(r_t + gamma sg(w(s_t+2)) - w(s_t+1))^2: w learns the value of each step for the policy that took them, by
    temporal differences along the row (DVPO's global value model, arXiv 2502.16944, eq. 5). The last step's target is
    its reward."""

    critic: str = "guide"
    gamma: float = 1.0

    needs = "values of the states that follow"
    formula = "(r_t + gamma sg(w(s_t+2)) - w(s_t+1))^2, sg(w) = 0 after the last step"
    critics = named_by("critic")

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise CompositionError(f"gamma must be in 0..1, got {self.gamma}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        said = select(batch.own, seen.value(self.critic, following=True))
        rewards = fold_rewards(batch, batch.step["reward"]).to(said.dtype)
        (reward, value), back = pack_own(batch, rewards, said.detach())
        following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
        target = (reward + self.gamma * following).gather(1, back)
        return select(batch.trained, said - target) ** 2


@dataclass(frozen=True)
class SuccessCrossEntropy(Loss):
    """Cross-entropy of sigma(w), w the value model's number before a step, with a share of success y in 0..1, a column
    (arXiv 2412.18279: the share of completions that end right)."""

    critic: str = "critic"
    target: str = "label"

    needs = "shares of success"
    formula = "-y log sigma(w(s_t)) - (1 - y) log(1 - sigma(w(s_t)))"
    reads = named_by("target")
    critics = named_by("critic")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        logit = select(batch.trained, seen.value(self.critic))
        return softplus(logit) - select(batch.trained, batch.step[self.target]) * logit
